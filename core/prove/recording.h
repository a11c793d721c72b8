// SPDX-License-Identifier: GPL-2.0-or-later
// Recording: what a file system has asked of its device, and marks of what it has promised between.
// tests/ext4_recording.py makes such files; their format stands at its top.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace pcache {

class Recording {
 public:
  enum class Kind : uint8_t { kWrite = 1, kFlush, kTrim, kZero, kRead, kMark };
  struct Request {
    Kind kind;
    bool fua;
    Extent extent;                    // of kFlush and kMark: nothing
    std::span<const std::byte> data;  // of kWrite
    bool preflush = false;            // in no file: NBD has none
  };

  // EINVAL: the file is damaged, or its device is not of `device_bytes`, or a request is no
  // multiple of sectors, or changes something behind `used_bytes`. Reads that end there are left
  // out.
  static Result<Recording> read(const std::string& path, uint64_t device_bytes,
                                uint64_t used_bytes);
  const std::vector<Request>& requests() const { return requests_; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<Request> requests_;  // their data is in bytes_
};

}  // namespace pcache
