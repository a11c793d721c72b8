// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <optional>
#include <string_view>

#include "control/bell_file.h"
#include "control/client.h"

namespace pcache {

namespace {

constexpr const char* kSuffix = ".sock";
constexpr const char* kBackendSuffix = ".backend.sock";
constexpr const char* kDiskSuffix = ".disk";
constexpr const char* kUnnamed = ".new-";  // begins the name of one that is being made
constexpr int kBacklog = 64;

uid_t owner_of(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0 ? st.st_uid : geteuid();
}

// A socket that root or this user has made: another one's may say what it likes.
bool is_trusted(const std::string& path, uid_t user) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode) &&
         (st.st_uid == 0 || st.st_uid == user);
}

Result<std::string> absolute_path(const std::string& path) {
  if (path.starts_with('/')) return path;
  char folder[PATH_MAX];
  if (!getcwd(folder, sizeof folder)) return error_errno(errno, "socket %s", path.c_str());
  return std::string(folder).append("/").append(path);
}

// Of no other socket on this machine.
std::string unique_text() {
  static std::atomic<uint32_t> count{0};
  char text[32];
  snprintf(text, sizeof text, "%d-%u", getpid(), count.fetch_add(1));
  return text;
}

bool is_socket(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode);
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return std::string(".");
  return path.substr(0, std::max<size_t>(slash, 1));
}

// Nobody listens there, though another process may be about to: see FolderLocked.
bool is_dead(const std::string& path) {
  const auto there = ControlClient::connect(path, 0);
  return !there && there.error().code == ECONNREFUSED;
}

// EADDRINUSE, EEXIST: the path is taken. What a dead process has left there is not in the way.
Status refuse_taken(const std::string& path) {
  struct stat st;
  if (lstat(path.c_str(), &st) != 0)
    return errno == ENOENT ? Status() : error_errno(errno, "socket %s", path.c_str());
  if (!S_ISSOCK(st.st_mode))
    return make_error(EEXIST, "socket %s: there is something else; give another path",
                      path.c_str());
  if (is_dead(path)) return {};
  return make_error(EADDRINUSE, "socket %s: another program listens there; give another path",
                    path.c_str());
}

// What processes that were killed have left. Who makes a socket has the lock that we have.
void remove_dead(const std::string& folder) {
  for (const std::string& path : paths_in(folder)) {
    if (path.ends_with(kBellSuffix)) remove_bell_if_dead(path);
    if (!is_socket(path)) continue;
    const bool is_unnamed = name_in_folder(path).starts_with(kUnnamed);
    if (is_unnamed || (path.ends_with(kSuffix) && is_dead(path))) unlink(path.c_str());
  }
}

// A file that is removed unless it is kept.
class Unkept {
 public:
  explicit Unkept(const std::string& path) : path_(path) {}
  ~Unkept() {
    if (!kept_) unlink(path_.c_str());
  }
  void keep() { kept_ = true; }

 private:
  const std::string& path_;
  bool kept_ = false;
};

std::optional<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return {};
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

Result<std::string> default_socket(const std::string& path, bool readonly) {
  const auto name = name_of_cache(path);
  if (!name) return name.error();
  std::string socket = runtime_folder() + "/" + name.value();
  if (readonly) socket.append(".readonly-").append(unique_text());
  return socket + kSuffix;
}

namespace {

Result<std::string> path_in_runtime_folder(const std::string& cache_path, const char* suffix) {
  const auto name = name_of_cache(cache_path);
  if (!name) return name.error();
  return std::string(runtime_folder()).append("/").append(name.value()).append(suffix);
}

}  // namespace

Result<std::string> backend_socket(const std::string& path) {
  return path_in_runtime_folder(path, kBackendSuffix);
}

Result<std::string> disk_socket(const std::string& path) {
  return path_in_runtime_folder(path, kDiskSuffix);
}

std::vector<std::string> all_sockets() {
  std::vector<std::string> sockets;
  for (const std::string& folder : runtime_folders())
    for (const std::string& path : paths_in(folder))
      if (path.ends_with(kSuffix) && is_trusted(path, geteuid() == 0 ? owner_of(path) : geteuid()))
        sockets.push_back(path);
  std::sort(sockets.begin(), sockets.end());
  return sockets;
}

namespace {

// The living one that ends in `suffix`, else any of the cache if `any`; ENOENT.
Result<std::string> find_socket(const std::string& path, const char* suffix, bool any) {
  if (is_socket(path)) return path;
  const auto name = name_of_cache(path);
  if (!name) return name.error();
  std::string found;
  for (const std::string& socket : all_sockets()) {
    // Who may write to the cache may say what becomes of it.
    if (!is_trusted(socket, geteuid()) && !is_trusted(socket, owner_of(path))) continue;
    const std::string file = name_in_folder(socket);
    if (!file.starts_with(name.value() + ".") || is_dead(socket)) continue;
    if (file == name.value() + suffix) return socket;
    if (any) found = socket;
  }
  if (!found.empty()) return found;
  return make_error(ENOENT,
                    "%s: no process that has it attached is found in %s; of one with control=PATH "
                    "give that path",
                    path.c_str(), runtime_folders_text().c_str());
}

}  // namespace

Result<std::string> find_socket(const std::string& path) {
  return find_socket(path, kSuffix, true);
}

Result<std::string> find_backend_socket(const std::string& path) {
  return find_socket(path, kBackendSuffix, false);
}

Result<ControlSocket> ControlSocket::listen(const std::string& path, bool makes_folder) {
  const std::string folder = folder_of(path);
  // Under another name until it can be connected to.
  const std::string made_at =
      std::string(folder).append("/").append(kUnnamed).append(unique_text());
  const auto address = address_of(made_at);
  if (!address || !address_of(path))
    return make_error(ENAMETOOLONG,
                      "socket %s: its path may have %zu bytes, and that of its folder %zu",
                      path.c_str(), sizeof address->sun_path - 1,
                      sizeof address->sun_path - 1 - (made_at.size() - folder.size()));
  if (makes_folder)
    if (auto made = make_runtime_folder(folder); !made) return made.error();
  std::optional<FolderLocked> lock;
  if (makes_folder && lock.emplace(folder).locked()) remove_dead(folder);
  if (auto is_free = refuse_taken(path); !is_free) return is_free.error();
  // To be removed, also from another working directory.
  auto absolute = absolute_path(path);
  if (!absolute) return absolute.error();
  ControlSocket made(UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)),
                     absolute.take());
  // bind() gives the file the mode of the socket, without a moment in which it has another.
  if (!made.fd_.valid() || fchmod(made.fd(), 0600) != 0 ||
      bind(made.fd(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0)
    return error_errno(errno, "socket %s", path.c_str());
  Unkept file(made_at);
  struct stat st;
  if (::listen(made.fd(), kBacklog) != 0 || lstat(made_at.c_str(), &st) != 0 ||
      rename(made_at.c_str(), path.c_str()) != 0)
    return error_errno(errno, "socket %s", path.c_str());
  file.keep();
  made.dev_ = st.st_dev;
  made.ino_ = st.st_ino;
  return made;
}

ControlSocket::~ControlSocket() {
  struct stat st;
  if (fd_.valid() && lstat(path_.c_str(), &st) == 0 && st.st_dev == dev_ && st.st_ino == ino_)
    unlink(path_.c_str());
}

}  // namespace pcache
