// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/runtime_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <thread>

namespace pcache {

namespace {

constexpr int kTries = 200;
constexpr std::chrono::milliseconds kWait{10};

// `begin` and a number.
bool is_of_a_user(std::string_view name, std::string_view begin) {
  return name.starts_with(begin) && name.size() > begin.size() &&
         name.find_first_not_of("0123456789", begin.size()) == std::string_view::npos;
}

}  // namespace

Result<std::string> name_of_cache(const std::string& path) {
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

// libstdc++'s iterator ends the process where there is no memory.
std::vector<std::string> paths_in(const std::string& folder) {
  std::vector<std::string> paths;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(folder.c_str()), closedir);
  while (const dirent* entry = dir ? readdir(dir.get()) : nullptr)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      paths.push_back(std::string(folder).append("/").append(entry->d_name));
  return paths;
}

std::string name_in_folder(const std::string& path) { return path.substr(path.rfind('/') + 1); }

Status make_runtime_folder(const std::string& folder) {
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

UniqueFd open_runtime_folder(const std::string& folder) {
  return UniqueFd(open(folder.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

namespace {

// Root makes nothing in another user's folder, nor where a link of that one leads.
UniqueFd open_lock(const std::string& folder) {
  const UniqueFd in = open_runtime_folder(folder);
  struct stat st;
  if (!in.valid() || fstat(in.get(), &st) != 0) return UniqueFd();
  const int makes = st.st_uid == geteuid() ? O_CREAT : 0;
  return UniqueFd(
      openat(in.get(), ".lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | makes, 0600));
}

}  // namespace

FolderLocked::FolderLocked(const std::string& folder) : fd_(open_lock(folder)) {
  for (int tries = 0; fd_.valid() && !locked_ && tries < kTries; tries++) {
    locked_ = flock(fd_.get(), LOCK_EX | LOCK_NB) == 0;
    if (!locked_) std::this_thread::sleep_for(kWait);
  }
}

// A child that another thread has forked meanwhile has the descriptor, too.
FolderLocked::~FolderLocked() {
  if (locked_) (void)flock(fd_.get(), LOCK_UN);
}

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

}  // namespace pcache
