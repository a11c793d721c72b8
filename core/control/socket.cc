// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/socket.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>

#include "control/client.h"

namespace pcache {

namespace {

constexpr const char* kSuffix = ".sock";
constexpr const char* kUnnamed = ".new-";  // begins the name of one that is being made
constexpr int kBacklog = 64;

// "DEVICE-INODE" of a file, "MAJOR-MINOR" of a device node, which may have several paths.
Result<std::string> name_of(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return error_errno(errno, "%s", path.c_str());
  char name[64];
  if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
    snprintf(name, sizeof name, "%c%u-%u", S_ISCHR(st.st_mode) ? 'c' : 'b', major(st.st_rdev),
             minor(st.st_rdev));
  else
    snprintf(name, sizeof name, "%llx-%llu", static_cast<unsigned long long>(st.st_dev),
             static_cast<unsigned long long>(st.st_ino));
  return std::string(name);
}

// `begin` and a number.
bool is_of_a_user(std::string_view name, std::string_view begin) {
  return name.starts_with(begin) && name.size() > begin.size() &&
         name.find_first_not_of("0123456789", begin.size()) == std::string_view::npos;
}

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

// The paths in a folder; none if it cannot be read. libstdc++'s iterator ends the process where
// there is no memory.
std::vector<std::string> paths_in(const std::string& folder) {
  std::vector<std::string> paths;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(folder.c_str()), closedir);
  while (const dirent* entry = dir ? readdir(dir.get()) : nullptr)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      paths.push_back(std::string(folder).append("/").append(entry->d_name));
  return paths;
}

std::string name_in_folder(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return std::string(".");
  return path.substr(0, std::max<size_t>(slash, 1));
}

Status make_folder(const std::string& folder) {
  // Root's can be looked into, since its sockets may be given to a group.
  const mode_t mode = geteuid() == 0 ? 0755 : 0700;
  if (mkdir(folder.c_str(), mode) != 0 && errno != EEXIST)
    return error_errno(errno, "folder %s", folder.c_str());
  struct stat st;
  if (lstat(folder.c_str(), &st) != 0) return error_errno(errno, "folder %s", folder.c_str());
  if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0)
    return make_error(EPERM,
                      "folder %s: expected one that this user alone can write to, found %s of user "
                      "%u with mode %o",
                      folder.c_str(), S_ISDIR(st.st_mode) ? "a folder" : "something else",
                      st.st_uid, st.st_mode & 07777);
  return {};
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

// One process at a time changes what is in a runtime folder, by a lock that nobody else can take.
// Whoever does not get it in time goes on without: then two that replace what is left of a dead one
// may get in each other's way.
class FolderLocked {
 public:
  explicit FolderLocked(const std::string& folder)
      : fd_(open((folder + "/.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) {
    for (int tries = 0; fd_.valid() && !locked_ && tries < kTries; tries++) {
      locked_ = flock(fd_.get(), LOCK_EX | LOCK_NB) == 0;
      if (!locked_) std::this_thread::sleep_for(kWait);
    }
  }
  // A child that another thread has forked meanwhile has the descriptor, too.
  ~FolderLocked() {
    if (locked_) (void)flock(fd_.get(), LOCK_UN);
  }
  FolderLocked(const FolderLocked&) = delete;
  FolderLocked& operator=(const FolderLocked&) = delete;
  bool locked() const { return locked_; }

 private:
  static constexpr int kTries = 200;
  static constexpr std::chrono::milliseconds kWait{10};
  const UniqueFd fd_;
  bool locked_ = false;
};

// What processes that were killed have left. Who makes a socket has the lock that we have.
void remove_dead(const std::string& folder) {
  for (const std::string& path : paths_in(folder)) {
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

std::string runtime_folder() {
  if (const char* const given = secure_getenv("PCACHE_RUNTIME_DIR"); given && *given == '/')
    return given;
  if (geteuid() == 0) return "/run/pcache";
  const char* const xdg = secure_getenv("XDG_RUNTIME_DIR");
  if (xdg && *xdg == '/') return std::string(xdg) + "/pcache";
  return std::string("/tmp/pcache-").append(std::to_string(geteuid()));
}

std::vector<std::string> runtime_folders() {
  std::vector<std::string> folders{runtime_folder()};
  if (secure_getenv("PCACHE_RUNTIME_DIR")) return folders;
  const auto add = [&](const std::string& folder) {
    if (std::find(folders.begin(), folders.end(), folder) == folders.end())
      folders.push_back(folder);
  };
  const auto add_all = [&](const char* in, const char* begin, const char* below) {
    for (const std::string& path : paths_in(in))
      if (is_of_a_user(name_in_folder(path), begin)) add(path + below);
  };
  const std::string user = std::to_string(geteuid());
  add("/run/pcache");
  // Whoever has attached the cache may have had another environment.
  add(std::string("/run/user/").append(user).append("/pcache"));
  add(std::string("/tmp/pcache-").append(user));
  if (geteuid() == 0) {
    add_all("/run/user", "", "/pcache");
    add_all("/tmp", "pcache-", "");
  }
  return folders;
}

std::string runtime_folders_text() {
  std::string text;
  for (const std::string& folder : runtime_folders())
    text.append(text.empty() ? "" : ", ").append(folder);
  return text;
}

Result<std::string> default_socket(const std::string& path, bool readonly) {
  const auto name = name_of(path);
  if (!name) return name.error();
  std::string socket = runtime_folder() + "/" + name.value();
  if (readonly) socket.append(".readonly-").append(unique_text());
  return socket + kSuffix;
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

Result<std::string> find_socket(const std::string& path) {
  if (is_socket(path)) return path;
  const auto name = name_of(path);
  if (!name) return name.error();
  std::string found;
  for (const std::string& socket : all_sockets()) {
    // Who may write to the cache may say what becomes of it.
    if (!is_trusted(socket, geteuid()) && !is_trusted(socket, owner_of(path))) continue;
    const std::string file = name_in_folder(socket);
    if (!file.starts_with(name.value() + ".") || is_dead(socket)) continue;
    if (file == name.value() + kSuffix) return socket;
    found = socket;
  }
  if (!found.empty()) return found;
  return make_error(ENOENT,
                    "%s: no process that has it attached is found in %s; of one with control=PATH "
                    "give that path",
                    path.c_str(), runtime_folders_text().c_str());
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
    if (auto made = make_folder(folder); !made) return made.error();
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
