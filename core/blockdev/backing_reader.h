// SPDX-License-Identifier: GPL-2.0-or-later
// BackingReader: the backing device for tools that only read it, one read at a time: a file or a
// disk (on any file system, as it is when nobody changes it), or a device on a server of NBD. One
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "blockdev/backing_file.h"
#include "blockdev/block_device.h"

namespace pcache {

class BackingReader {
 public:
  // Errors: those of open_block_device(), with read_only.
  static Result<BackingReader> open(const std::string& path, const Log& log);
  explicit BackingReader(BackingFile file);

  const std::string& path() const { return path_; }
  uint64_t size_bytes() const { return size_bytes_; }  // a multiple of block_bytes()
  uint32_t block_bytes() const { return block_bytes_; }
  const DeviceIdentity& identity() const { return identity_; }

  Status sync_size() const;  // as BlockDevice::sync_size()

  // Into a buffer for direct I/O (kMostDirectIoBytes), whole blocks inside the device. How many
  // bytes were read, 0 if the device ends there, or a negative errno.
  int64_t read(uint64_t off, void* buffer, size_t len_bytes) const;
  // Where there may be something but zeros, at `off` or behind it; UINT64_MAX: nowhere.
  uint64_t next_data(uint64_t off) const;

 private:
  BackingReader() = default;

  std::string path_;
  uint64_t size_bytes_ = 0;
  uint32_t block_bytes_ = 0;
  DeviceIdentity identity_;
  BackingFile file_;                     // open, or:
  std::unique_ptr<BlockDevice> device_;  // with its queue, which is destroyed first
  std::unique_ptr<BlockQueue> queue_;
};

}  // namespace pcache
