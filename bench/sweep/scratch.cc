// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <regex>
#include <vector>

#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

// "bound": what an earlier version left, which had the bound on a file of its own.
constexpr const char* kFiles[] = {"cache", "bound", "backing", "lock"};

// Of a folder that is open; false: it holds something that is not ours.
bool holds_our_files_alone(int folder) {
  const int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* entries = copy >= 0 ? fdopendir(copy) : nullptr;
  if (!entries) return false;
  bool ours = true;
  while (const dirent* entry = readdir(entries)) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat is;
    ours &= std::ranges::find(kFiles, name) != std::end(kFiles) &&
            fstatat(folder, entry->d_name, &is, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(is.st_mode);
  }
  closedir(entries);
  return ours;
}

void remove_if_left(const std::string& path) {
  const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return;
  struct stat is;
  if (fstat(folder, &is) == 0 && is.st_uid == geteuid() && holds_our_files_alone(folder)) {
    const int lock = openat(folder, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0) {
      for (const char* name : kFiles) unlinkat(folder, name, 0);  // the lock is the last to go
      rmdir(path.c_str());
    }
    if (lock >= 0) close(lock);
  }
  close(folder);
}

}  // namespace

void Scratch::remove_left_over(const std::string& parent) {
  static const std::regex ours("pcache-sweep-[0-9]+-[A-Za-z0-9]{6}");
  std::vector<std::string> left;
  std::error_code error;
  for (std::filesystem::directory_iterator at(parent, error), end; !error && at != end;
       at.increment(error))
    if (std::regex_match(at->path().filename().string(), ours)) left.push_back(at->path());
  for (const std::string& path : left) remove_if_left(path);
}

Scratch::Scratch(const std::string& parent) {
  folder_ = parent + "/pcache-sweep-" + std::to_string(getpid()) + "-XXXXXX";
  if (!mkdtemp(folder_.data()))
    throw Wrong(parent + ": cannot make a folder there: " + strerror(errno));
  // It gets its name when it is locked: nobody sees it free.
  const std::string fresh = file("lock.new");
  lock_ = open(fresh.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (lock_ >= 0 && flock(lock_, LOCK_EX | LOCK_NB) == 0 &&
      rename(fresh.c_str(), file("lock").c_str()) == 0)
    return;
  const int error = errno;
  if (lock_ >= 0) close(lock_);
  unlink(fresh.c_str());
  rmdir(folder_.c_str());
  throw Wrong(folder_ + "/lock: cannot be locked: " + strerror(error));
}

Scratch::~Scratch() {
  for (const char* name : kFiles) unlink(file(name).c_str());
  rmdir(folder_.c_str());
  close(lock_);
}

}  // namespace pcache::sweep
