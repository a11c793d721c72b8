// SPDX-License-Identifier: GPL-2.0-or-later
// A device or file that the user has given to a sweep, which will overwrite it.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

namespace pcache::sweep {

// What a file is that is no regular one: "a pipe".
const char* kind_of(mode_t mode);

// Of one sweep as long as this lives: no other one gets it. The lock is of the open file
// description (fcntl): the library's own, by which fio takes the device, is flock, and beside it.
class Device {
 public:
  enum Use { kCache, kBacking };  // pmem may be a devdax device, which is a character device

  // Throws Wrong: it is not there, of the wrong kind, too small or another sweep's, or `overwrite`
  // was not said. `least_bytes`: what a case needs.
  Device(const std::string& path, Use use, uint64_t least_bytes, bool overwrite);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Use use() const { return use_; }
  // `path` is a name of it, too.
  bool is(const std::string& path) const;

 private:
  const Use use_;
  struct stat is_;
  int fd_ = -1;
};

}  // namespace pcache::sweep
