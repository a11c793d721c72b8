// SPDX-License-Identifier: GPL-2.0-or-later
// FileSpace: the length and the blocks of a cache file: allocates them, and can give them back.
//
// Invariants
// - It does not allocate again what the file has: XFS needs as much free space as a whole
//   fallocate() could take, even if nothing is missing.
// - restore() brings back the length, blocks and modification time that the file had when the
//   object was made, if the file system reports its blocks. It must come before anything but zeros
//   is stored to the file. Changes by others stay (on tmpfs, where reading takes blocks, without
//   these).
// One thread; the file is locked against others.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace pcache {

struct FileGap {
  uint64_t off = 0, len_bytes = 0;
};

class FileSpace {
 public:
  // For a regular file. `fd` is borrowed, `name` is for messages.
  FileSpace(int fd, std::string name);

  // Makes the file longer, with all blocks of the new part. ENOSPC and the like: call restore().
  Status extend(uint64_t size_bytes);
  // Allocates blocks for the holes that the file had at first. A store into a hole of a full file
  // system would raise SIGBUS.
  Status fill();
  // The same for one range, whatever it was before.
  Status reserve(uint64_t off, uint64_t len_bytes);
  void restore();
  // Makes the file that long, with all blocks behind the first `used_bytes`, while others store to
  // those; durably. Fails: the file has the length that it had. Of an object that is made for it
  // alone: no restore().
  Status grow(uint64_t used_bytes, uint64_t size_bytes);
  // To the length that it had, after a grow() of which nothing is used.
  void cut();

 private:
  Status allocate(int mode, uint64_t off, uint64_t len_bytes);
  // False: the file system does not report its blocks exactly.
  bool find_gaps_by_map();
  bool find_gaps_by_seek();

  const int fd_;
  const std::string name_;
  struct stat before_ = {};
  std::vector<FileGap> gaps_;
  const bool on_tmpfs_;
  bool told_ = false;     // gaps_ has all holes
  bool changed_ = false;  // by this object
};

}  // namespace pcache
