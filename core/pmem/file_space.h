// SPDX-License-Identifier: GPL-2.0-or-later
// FileSpace: the length and the blocks of a cache file; getting them, and giving back what was got.
//
// Invariants
// - What a file has already is not asked for again: XFS wants as much free space as a whole
//   fallocate() could need, also where nothing is missing.
// - restore() brings back length, blocks and time of change as they were when the object was made,
//   as far as the file system keeps an account of blocks. Its holes must hold nothing new: that is,
//   before anything but zeros was stored to the file. What the object did not change, others did:
//   that stays (on tmpfs, where looking takes blocks, but for the blocks).
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
  // Of a regular file. `fd` is borrowed, `name` is for messages.
  FileSpace(int fd, std::string name);

  // Makes it longer, all of the new part allocated. ENOSPC and the like; then call restore().
  Status extend(uint64_t size_bytes);
  // Allocates what has no blocks of the file as it was. A store into a hole of a full file system
  // would be SIGBUS.
  Status fill();
  // The same of one range, whatever it was before.
  Status reserve(uint64_t off, uint64_t len_bytes);
  void restore();

 private:
  Status allocate(int mode, uint64_t off, uint64_t len_bytes);
  // False: the file system does not tell, or keeps no account.
  bool find_gaps_by_map();
  bool find_gaps_by_seek();

  const int fd_;
  const std::string name_;
  struct stat before_ = {};
  std::vector<FileGap> gaps_;
  const bool on_tmpfs_;
  bool told_ = false;     // gaps_ are all there are
  bool changed_ = false;  // by this object
};

}  // namespace pcache
