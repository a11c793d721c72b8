// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/device.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "sweep/lock.h"
#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

// 0: nobody says.
uint64_t bytes_in(int fd, const struct stat& is) {
  if (!S_ISCHR(is.st_mode)) {
    const off_t end = lseek(fd, 0, SEEK_END);
    return end > 0 ? static_cast<uint64_t>(end) : 0;
  }
  std::ifstream in("/sys/dev/char/" + std::to_string(major(is.st_rdev)) + ":" +
                   std::to_string(minor(is.st_rdev)) + "/size");
  uint64_t bytes = 0;
  in >> bytes;
  return bytes;
}

}  // namespace

const char* kind_of(mode_t mode) {
  return S_ISDIR(mode)    ? "a folder"
         : S_ISCHR(mode)  ? "a character device"
         : S_ISBLK(mode)  ? "a block device"
         : S_ISFIFO(mode) ? "a pipe"
         : S_ISSOCK(mode) ? "a socket"
                          : "something else";
}

Device::Device(const std::string& path, Use use, uint64_t least_bytes, bool overwrite) : use_(use) {
  const auto wrong = [&](const std::string& what) { return Wrong(path + ": " + what); };
  const std::string expected =
      use == kCache ? "a pmem device or a file" : "a block device or a file";
  if (stat(path.c_str(), &is_) != 0) throw wrong(strerror(errno));
  if (!S_ISREG(is_.st_mode) && !S_ISBLK(is_.st_mode) && !(use == kCache && S_ISCHR(is_.st_mode)))
    throw wrong("expected " + expected + ", found " + kind_of(is_.st_mode));
  if (!overwrite) throw wrong("its content will be lost; --overwrite says that it may be");
  fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd_ < 0) throw wrong(std::string("cannot be opened: ") + strerror(errno));
  struct flock all {};
  all.l_type = F_WRLCK;
  const uint64_t bytes = bytes_in(fd_, is_);
  std::string what;
  if (bytes < least_bytes)
    what = "expected " + expected + " of " + size_of(least_bytes) + " or more, found " +
           size_of(bytes) +
           "; cache_size and working_set make it less, of a trace cache_share, block_bytes and "
           "requests";
  else if (!lock_soon([&] { return fcntl(fd_, F_OFD_SETLK, &all) == 0; }))
    what = errno == EAGAIN || errno == EACCES ? "another sweep is using it; wait for its end"
                                              : std::string("cannot be locked: ") + strerror(errno);
  else if (!lock_soon([&] { return flock(fd_, LOCK_EX | LOCK_NB) == 0; }))
    what = "a cache is running on it; stop it first";
  if (what.empty()) {
    flock(fd_, LOCK_UN);  // fio will want it
    return;
  }
  close(fd_);
  throw wrong(what);
}

Device::~Device() { close(fd_); }

bool Device::is(const std::string& path) const {
  struct stat other;
  if (stat(path.c_str(), &other) != 0 || S_ISREG(is_.st_mode) != S_ISREG(other.st_mode))
    return false;
  if (!S_ISREG(is_.st_mode)) return is_.st_rdev == other.st_rdev;
  return is_.st_dev == other.st_dev && is_.st_ino == other.st_ino;
}

}  // namespace pcache::sweep
