// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/bell_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <optional>
#include <utility>

namespace pcache {

namespace {

constexpr auto kBellBytes = static_cast<off_t>(Doorbell::kPageBytes);

// Not what somebody else has linked there for root to store to.
bool is_trusted(const struct stat& st, const std::string& cache_path) {
  struct stat cache;
  if (st.st_nlink != 1) return false;
  return st.st_uid == geteuid() || st.st_uid == 0 ||
         (stat(cache_path.c_str(), &cache) == 0 && st.st_uid == cache.st_uid);
}

std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

const char* name_of(const std::string& path) { return path.c_str() + path.rfind('/') + 1; }

// Needs no memory.
void remove_if_dead(const UniqueFd& folder, const char* name) {
  if (!folder.valid()) return;
  const UniqueFd fd(openat(folder.get(), name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat st;
  if (fd.valid() && fstat(fd.get(), &st) == 0 && S_ISREG(st.st_mode) &&
      flock(fd.get(), LOCK_EX | LOCK_NB) == 0)
    unlinkat(folder.get(), name, 0);
}

}  // namespace

bool BellFile::is_sound() const {
  struct stat st;
  return fd_.valid() && lstat(path_.c_str(), &st) == 0 && st.st_dev == dev_ && st.st_ino == ino_ &&
         st.st_size >= kBellBytes;
}

Status BellFile::keep() try {
  if (is_sound()) return {};
  if (fd_.valid()) bell_.disconnect();
  fd_ = UniqueFd();
  folder_ = UniqueFd();
  path_.clear();
  const auto name = name_of_cache(cache_path_);
  if (!name) return name.error();
  const std::string file = std::string("/").append(name.value()).append(kBellSuffix);
  for (const std::string& folder : runtime_folders())
    if (connect(folder + file, false)) return {};
  const std::string folder = runtime_folder();
  if (auto made = make_runtime_folder(folder); !made) return made;
  const FolderLocked lock(folder);
  return connect(folder + file, true);
} catch (const std::bad_alloc&) {
  return out_of_memory();
}

Status BellFile::connect(const std::string& path, bool creates) {
  UniqueFd folder = open_runtime_folder(folder_of(path));
  if (!folder.valid()) return error_errno(errno, "doorbell %s: its folder", path.c_str());
  UniqueFd fd(openat(folder.get(), name_of(path),
                     O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (creates ? O_CREAT : 0), 0600));
  struct stat st;
  if (!fd.valid() || fstat(fd.get(), &st) != 0)
    return error_errno(errno, "doorbell %s", path.c_str());
  if (!S_ISREG(st.st_mode))
    return make_error(EEXIST, "doorbell %s: there is something else; remove it", path.c_str());
  if (!is_trusted(st, cache_path_))
    return make_error(EPERM, "doorbell %s: it is another user's, or has another name; remove it",
                      path.c_str());
  if (flock(fd.get(), LOCK_SH | LOCK_NB) != 0)  // who removes it has it for a moment
    return error_errno(errno, "doorbell %s", path.c_str());
  if (st.st_size < kBellBytes && ftruncate(fd.get(), kBellBytes) != 0)
    return error_errno(errno, "doorbell %s", path.c_str());
  if (auto connected = bell_.connect(fd.get()); !connected) return connected;
  fd_ = std::move(fd);
  folder_ = std::move(folder);
  path_ = path;
  dev_ = st.st_dev;
  ino_ = st.st_ino;
  return {};
}

void BellFile::leave() {
  if (!fd_.valid()) return;
  bell_.leave();
  bell_.disconnect();
  std::optional<FolderLocked> lock;
  try {
    lock.emplace(folder_of(path_));
  } catch (const std::bad_alloc&) {  // it goes on without, as who does not get the lock
  }
  const bool is_ours = is_sound();
  (void)flock(fd_.get(), LOCK_UN);  // a child that was forked meanwhile has the descriptor, too
  if (is_ours) remove_if_dead(folder_, name_of(path_));
  fd_ = UniqueFd();
  folder_ = UniqueFd();
  path_.clear();
}

void remove_bell_if_dead(const std::string& path) {
  remove_if_dead(open_runtime_folder(folder_of(path)), name_of(path));
}

}  // namespace pcache
