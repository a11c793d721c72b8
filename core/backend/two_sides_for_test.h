// SPDX-License-Identifier: GPL-2.0-or-later
// A front and a backend over one memory, in one thread.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "cache/cache_for_test.h"
#include "testing/lent_device.h"

namespace pcache {

// As a server has it that serves for reading.
class ReadQueue : public BlockQueue {
 public:
  explicit ReadQueue(std::unique_ptr<BlockQueue> queue) : queue_(std::move(queue)) {}
  void submit(BlockIo* io) override {
    EXPECT_EQ(io->op, BlockOp::kRead) << "a front writes nothing";
    queue_->submit(io);
  }
  bool kick() override { return queue_->kick(); }
  unsigned poll() override { return queue_->poll(); }
  unsigned wait(int64_t timeout_ns) override { return queue_->wait(timeout_ns); }
  int fd() const override { return queue_->fd(); }
  unsigned in_flight() const override { return queue_->in_flight(); }

 private:
  const std::unique_ptr<BlockQueue> queue_;
};

class ReadDevice : public LentDevice {
 public:
  using LentDevice::LentDevice;
  Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) override {
    auto queue = LentDevice::open_queue(depth);
    if (!queue) return queue;
    return std::unique_ptr<BlockQueue>(new ReadQueue(queue.take()));
  }
};

class TwoSidesTest : public CacheTest {
 protected:
  using milliseconds = std::chrono::milliseconds;
  // A cache that is formatted, and belongs to the disk.
  explicit TwoSidesTest(bool data_crc = false, uint32_t block_bytes = 512)
      : disk_(kLogicalBytes, block_bytes) {
    disk_.set_identity(backing_);
    options_.data_crc = data_crc;
    prepare();
    options_.data_crc.reset();
    options_.front = true;
  }
  Result<std::unique_ptr<Cache>> try_front() {
    options_.log = lines_.log();
    auto executor = std::make_unique<SteppedExecutor>();
    executor_ = executor.get();
    return Cache::attach(
        {memory_.make_pmem(), std::make_unique<ReadDevice>(disk_), std::move(executor)}, options_);
  }
  void start_front() {
    auto cache = try_front();
    ASSERT_TRUE(cache.ok()) << cache.error().text;
    cache_ = cache.take();
    queue_ = cache_->create_queue(16).take();
  }
  void start_backend(bool strict = false) {
    Backend::Options options;
    options.strict = strict;
    options.log = lines_.log();
    auto backend =
        Backend::attach(options, memory_.make_pmem(), std::make_unique<LentDevice>(disk_));
    ASSERT_TRUE(backend.ok()) << backend.error().text;
    backend_ = backend.take();
  }
  int flush() {
    Bytes none;
    return request(PCACHE_OP_FLUSH, 0, none);
  }
  // All that the log has.
  void write_back() {
    for (;;) {
      const auto moved = backend_->step();
      ASSERT_TRUE(moved.ok()) << moved.error().text;
      if (!Backend::has_moved(moved.value())) return;
    }
  }
  struct OneKeyKset {
    media::KsetHeader header;
    media::Key key;
  };
  int on_disk(uint64_t off, uint64_t len) {
    const Bytes data = disk_.peek(off, len);
    if (data == MemoryDevice::pattern(off, len)) return -1;
    EXPECT_EQ(data, Bytes(len, data[0]));
    return static_cast<int>(data[0]);
  }

  MemoryDevice disk_;
  std::unique_ptr<Backend> backend_;  // destroyed before it
};

}  // namespace pcache
