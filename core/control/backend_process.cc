// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/backend_process.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <system_error>
#include <utility>
#include <vector>

#include "base/child.h"
#include "base/no_thread.h"
#include "base/signals_blocked.h"
#include "blockdev/nbd_uri.h"
#include "control/client.h"
#include "control/socket.h"

namespace pcache {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* kName = "pcached";

struct Pipe {
  UniqueFd reads, writes;
};

// Both ends above the standard streams, which this process may have closed.
Result<Pipe> raised(int reads, int writes) {
  const UniqueFd low_reads(reads), low_writes(writes);
  Pipe pipe{UniqueFd(fcntl(reads, F_DUPFD_CLOEXEC, 3)),
            UniqueFd(fcntl(writes, F_DUPFD_CLOEXEC, 3))};
  if (!pipe.reads.valid() || !pipe.writes.valid()) return error_errno(errno, "pipe to pcached");
  return pipe;
}

Result<Pipe> make_pipe() {
  std::array<int, 2> fds;
  if (pipe2(fds.data(), O_CLOEXEC) != 0) return error_errno(errno, "pipe to pcached");
  return raised(fds[0], fds[1]);
}

// To be written to by send(), which needs no SIGPIPE.
Result<Pipe> make_input() {
  std::array<int, 2> fds;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0)
    return error_errno(errno, "socket to pcached");
  return raised(fds[0], fds[1]);
}

// As in a build directory, and as installed.
std::vector<std::string> places_beside_library() {
  Dl_info library = {};
  if (!dladdr(reinterpret_cast<const void*>(&places_beside_library), &library) ||
      !library.dli_fname)
    return {};
  const std::string path = library.dli_fname;
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {};
  const std::string folder = path.substr(0, slash);
  return {folder + "/../bin/" + kName, folder + "/" + kName};
}

std::string program_of(const std::string& given) {
  if (given != BackendProcess::kFindBackend)
    return given.find('/') == std::string::npos ? "./" + given : given;
  for (const std::string& path : places_beside_library())
    if (access(path.c_str(), X_OK) == 0) return path;
  return kName;
}

// nbd+unix:///?socket=PATH.
std::string uri_of_socket(const std::string& path) {
  constexpr const char* kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-._~";
  std::string uri = "nbd+unix:///?socket=";
  for (const char c : path) {
    char coded[4];
    snprintf(coded, sizeof coded, "%%%02x", static_cast<unsigned char>(c));
    if (std::string_view(kPlain).find(c) != std::string_view::npos)
      uri += c;
    else
      uri += coded;
  }
  return uri;
}

bool is_same_disk(const std::string& a, const std::string& b) {
  struct stat first, second;
  if (is_nbd_uri(a) || is_nbd_uri(b))
    return is_nbd_uri(a) && is_nbd_uri(b) && nbd_device_name(a) == nbd_device_name(b);
  if (stat(a.c_str(), &first) != 0 || stat(b.c_str(), &second) != 0) return false;
  if (S_ISBLK(first.st_mode) && S_ISBLK(second.st_mode)) return first.st_rdev == second.st_rdev;
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

milliseconds left_until(Clock::time_point at) {
  return std::max(std::chrono::ceil<milliseconds>(at - Clock::now()), milliseconds{0});
}

// Takes whole lines off the front of `text`.
std::vector<std::string> take_lines(std::string* text) {
  std::vector<std::string> lines;
  for (size_t end; (end = text->find('\n')) != std::string::npos; text->erase(0, end + 1))
    lines.push_back(text->substr(0, end));
  return lines;
}

// False: the other end is closed, and all of it is read.
bool read_some(int fd, std::string* text) {
  std::array<char, 4096> bytes;
  const ssize_t got = read(fd, bytes.data(), bytes.size());
  if (got < 0 && errno == EINTR) return true;
  if (got > 0) text->append(bytes.data(), static_cast<size_t>(got));
  return got > 0;
}

}  // namespace

// What pcached answers to `offer`.
struct BackendProcess::Offer {
  std::string disk, socket, input;
  pid_t pid = -1;
};

Result<BackendProcess::Offer> BackendProcess::ask(const std::string& socket) {
  auto client = ControlClient::connect(socket);
  if (!client) return client.error();
  auto answer = client.value().ask("offer");
  if (!answer) return answer.error();
  Offer offer;
  for (const std::string& line : take_lines(&answer.value())) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string word = line.substr(0, space),
                      value = line.substr(std::min(space + 1, line.size()));
    if (word == "disk") offer.disk = value;
    if (word == "socket") offer.socket = value;
    if (word == "input") offer.input = value;
    if (word == "pid") (void)std::from_chars(value.data(), value.data() + value.size(), offer.pid);
  }
  return offer;
}

Result<std::unique_ptr<BackendProcess>> BackendProcess::have(const Options& options) {
  std::unique_ptr<BackendProcess> backend(new BackendProcess(options));
  const auto socket = find_backend_socket(options.cache_path);
  if (socket) {
    const auto offer = ask(socket.value());
    if (!offer)
      return make_error(offer.error().code, "the pcached of %s: %s", options.cache_path.c_str(),
                        offer.error().text.c_str());
    if (offer.value().input == "none") {
      if (auto used = backend->use(offer.value()); !used) return used.error();
      return backend;
    }
    if (auto ended = backend->end_left(socket.value(), offer.value()); !ended) return ended.error();
  }
  if (auto started = backend->start(); !started) return started.error();
  return backend;
}

Status BackendProcess::use(const Offer& offer) {
  if (!is_same_disk(offer.disk, options_.disk_path))
    return make_error(EXDEV, "pcached (pid %d) has %s with the disk %s, not %s", offer.pid,
                      options_.cache_path.c_str(), offer.disk.c_str(), options_.disk_path.c_str());
  if (is_nbd_uri(options_.disk_path)) {
    uri_ = options_.disk_path;
    return {};
  }
  if (offer.socket.empty())
    return make_error(
        ENOTCONN,
        "pcached (pid %d) has %s, and does not serve the disk: start it with --serve, "
        "or give the address of a server of %s in its place",
        offer.pid, options_.cache_path.c_str(), options_.disk_path.c_str());
  uri_ = uri_of_socket(offer.socket);
  return {};
}

Status BackendProcess::end_left(const std::string& socket, const Offer& offer) const {
  if (offer.input == "open")
    return make_error(EBUSY, "another front has it: pcached (pid %d) was started by that one",
                      offer.pid);
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, offer.pid, 0)));
  if (!process.valid() && errno == ESRCH) return {};
  if (!process.valid())
    return error_errno(errno, "pcached (pid %d), left of a killed front", offer.pid);
  if (auto client = ControlClient::connect(socket)) {
    const auto told = client.value().ask("end");
    // It may have ended meanwhile.
    if (!told && told.error().code == EBUSY) return told.error();
  }
  pollfd ended{process.get(), POLLIN, 0};
  if (poll(&ended, 1, static_cast<int>(options_.most_ending.count())) == 1) return {};
  return make_error(ETIMEDOUT,
                    "pcached (pid %d), left of a killed front, does not end: its disk may hang",
                    offer.pid);
}

Result<pid_t> BackendProcess::spawn(const std::string& socket, int in, int out, int err) const {
  Child child;
  child.command = {program_of(options_.program),
                   options_.cache_path,
                   "--backing",
                   options_.disk_path,
                   "--until-eof",
                   "--backing-order",
                   options_.strict ? "strict" : "relaxed"};
  if (!socket.empty()) child.command.insert(child.command.end(), {"--serve", socket});
  if (options_.emulate_pmem) child.command.emplace_back("--emulate-pmem");
  child.in = in;
  child.out = out;
  child.err = err;
  auto pid = start_child(child);
  if (pid) return pid;
  if (pid.error().code == ENOENT && child.command[0] == kName)
    return make_error(ENOENT,
                      "pcached is neither beside libpcache nor in PATH: install it, or give its "
                      "path as backend=PATH");
  return make_error(pid.error().code, "%s %s", child.command[0].c_str(), pid.error().text.c_str());
}

Status BackendProcess::start() {
  std::string socket;
  if (is_nbd_uri(options_.disk_path)) {
    uri_ = options_.disk_path;
  } else {
    auto place = disk_socket(options_.cache_path);
    if (!place)
      return make_error(place.error().code, "cache device %s", place.error().text.c_str());
    if (auto made = make_runtime_folder(runtime_folder()); !made) return made;
    socket = place.take();
    uri_ = uri_of_socket(socket);
  }
  auto in = make_input(), out = make_pipe(), err = make_pipe();
  for (const auto* pipe : {&in, &out, &err})
    if (!*pipe) return pipe->error();
  const auto pid =
      spawn(socket, in.value().reads.get(), out.value().writes.get(), err.value().writes.get());
  if (!pid) return pid.error();
  pid_ = pid.value();
  in_ = std::move(in.value().writes);
  out_ = std::move(out.value().reads);
  err_ = std::move(err.value().reads);
  // Its ends are its own: that of each pipe is seen when it ends.
  in.value().reads = UniqueFd();
  out.value().writes = UniqueFd();
  err.value().writes = UniqueFd();
  std::string said;
  if (auto serves = wait_until_it_serves(&said); !serves) return serves;
  for (const std::string& line : take_lines(&said))
    options_.log.print(LogLevel::kNotice, "%s", line.c_str());
  try {
    const SignalsBlocked blocked;
    passes_on_ = std::thread([this] { pass_on(); });
  } catch (const std::system_error& e) {
    return no_thread(e, "what pcached says");
  }
  return {};
}

// Its first line on stdout says that it has the disk, and serves it.
Status BackendProcess::wait_until_it_serves(std::string* said) {
  const auto latest = Clock::now() + options_.most_starting;
  std::string ready;
  bool talks = true;
  while (ready.find('\n') == std::string::npos) {
    pollfd streams[] = {{out_.get(), POLLIN, 0}, {talks ? err_.get() : -1, POLLIN, 0}};
    const int found = poll(
        streams, 2, static_cast<int>(std::min<int64_t>(left_until(latest).count(), INT32_MAX)));
    if (found < 0 && errno != EINTR) return error_errno(errno, "pcached: poll");
    if (found == 0) {
      kill(pid_, SIGKILL);
      return make_error(ETIMEDOUT, "pcached has not begun to serve after %lld s",
                        static_cast<long long>(options_.most_starting.count() / 1000));
    }
    if (streams[1].revents) talks = read_some(err_.get(), said);
    if (streams[0].revents && !read_some(out_.get(), &ready)) return refused(*said);
  }
  return {};
}

// Its last line is why.
Error BackendProcess::refused(const std::string& said_so_far) {
  std::string said = said_so_far;
  while (read_some(err_.get(), &said)) {
  }
  int status;
  (void)has_ended(std::exchange(pid_, -1), true, &status);
  const std::vector<std::string> lines = take_lines(&said);
  if (lines.empty()) return make_error(EIO, "pcached %s", ended_text(status).c_str());
  return make_error(EIO, "%s", lines.back().c_str());
}

void BackendProcess::pass_on() try {
  std::string said;
  while (read_some(err_.get(), &said))
    for (const std::string& line : take_lines(&said))
      options_.log.print(LogLevel::kWarning, "%s", line.c_str());
} catch (const std::bad_alloc&) {  // it goes on unheard: it ignores that nobody reads
}

// It ends within a batch; one whose disk hangs is killed, which loses nothing.
BackendProcess::~BackendProcess() {
  if (pid_ >= 0) {
    constexpr std::string_view kEnd = "end\n";
    (void)send(in_.get(), kEnd.data(), kEnd.size(), MSG_NOSIGNAL);
    in_ = UniqueFd();
    pollfd ended{out_.get(), 0, 0};  // POLLHUP
    if (poll(&ended, 1, static_cast<int>(options_.most_ending.count())) != 1) kill(pid_, SIGKILL);
    int status;
    (void)has_ended(pid_, true, &status);
  }
  if (passes_on_.joinable()) passes_on_.join();
}

}  // namespace pcache
