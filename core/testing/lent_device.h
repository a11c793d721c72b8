// SPDX-License-Identifier: GPL-2.0-or-later
// A MemoryDevice that outlives the caches it is lent to, as a disk does.
#pragma once

#include <memory>

#include "testing/memory_device.h"

namespace pcache {

class LentDevice : public BlockDevice {
 public:
  explicit LentDevice(MemoryDevice& device) : device_(device) {}
  uint64_t size_bytes() const override { return device_.size_bytes(); }
  Result<uint64_t> measure_again() override { return device_.measure_again(); }
  Status sync_size() const override { return device_.sync_size(); }
  uint32_t logical_block_bytes() const override { return device_.logical_block_bytes(); }
  const DeviceIdentity& identity() const override { return device_.identity(); }
  const char* io_mode_name() const override { return device_.io_mode_name(); }
  bool makes_holes() const override { return device_.makes_holes(); }
  bool is_hole(uint64_t off, uint64_t* end) const override { return device_.is_hole(off, end); }
  Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) override {
    return device_.open_queue(depth);
  }

 private:
  MemoryDevice& device_;
};

}  // namespace pcache
