// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/uring_device.h"

#include <utility>

#include "blockdev/uring_queue.h"

namespace pcache {

namespace {

class UringDevice final : public BlockDevice {
 public:
  UringDevice(BackingFile file, UringInit init) : file_(std::move(file)), init_(init) {}

  uint64_t size_bytes() const override { return file_.size_bytes; }
  Result<uint64_t> measure_again() override { return pcache::measure_again(&file_); }
  Status sync_size() const override { return pcache::sync_size(file_); }
  uint32_t logical_block_bytes() const override { return file_.align.block_bytes; }
  const DeviceIdentity& identity() const override { return file_.identity; }
  const char* io_mode_name() const override { return "io_uring"; }
  bool makes_holes() const override { return file_.makes_holes; }
  bool is_hole(uint64_t off, uint64_t* end) const override {
    return pcache::is_hole(file_, off, end);
  }
  Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) override {
    auto queue = UringQueue::open(file_, depth, init_);
    if (!queue) return queue.error();
    return std::unique_ptr<BlockQueue>(queue.take());
  }

 private:
  BackingFile file_;
  const UringInit init_;
};

}  // namespace

std::unique_ptr<BlockDevice> make_uring_device(BackingFile file, UringInit init) {
  return std::make_unique<UringDevice>(std::move(file), init);
}

}  // namespace pcache
