// SPDX-License-Identifier: GPL-2.0-or-later
// A cache in memory, with a clock that the test turns. It can be closed, or dropped as by a crash,
// and attached again.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cache/cache.h"
#include "testing/image.h"
#include "testing/memory_device.h"

namespace pcache {

class CacheTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kLogicalBytes = 64 << 20;
  using Bytes = std::vector<std::byte>;

  // The cache device may grow to `most_bytes`.
  explicit CacheTest(uint64_t most_bytes = media::kMinDeviceBytes)
      : memory_(media::kMinDeviceBytes, most_bytes) {}

  Result<std::unique_ptr<Cache>> try_attach() {
    options_.log = lines_.log();
    auto backing = std::make_unique<MemoryDevice>(logical_bytes_);
    backing->set_identity(backing_, unique_backing_);
    backing->set_sync_error(sync_error_);
    device_ = backing.get();
    auto executor = std::make_unique<SteppedExecutor>();
    executor_ = executor.get();
    return Cache::attach({memory_.make_pmem(), std::move(backing), std::move(executor)}, options_);
  }
  void attach() {
    auto cache = try_attach();
    ASSERT_TRUE(cache.ok()) << cache.error().text;
    cache_ = cache.take();
    queue_ = cache_->create_queue(16).take();
  }
  void detach() {
    queue_.reset();
    cache_.reset();
  }
  // Attaches and closes a fresh cache: the test starts from its image.
  void prepare() {
    attach();
    if (HasFatalFailure()) return;
    detach();
    memory_.checkpoint();
    lines_.lines.clear();
  }
  // The attach is refused with this text and stores no byte.
  void expect_refused(int code, const std::string& text) {
    memory_.checkpoint();
    memory_.forbid_stores();
    const auto cache = try_attach();
    memory_.allow_stores();
    ASSERT_FALSE(cache.ok()) << "attached";
    EXPECT_EQ(cache.error().code, code) << cache.error().text;
    EXPECT_THAT(cache.error().text, ::testing::HasSubstr(text));
    EXPECT_TRUE(memory_.journal().empty());
  }
  int request(uint32_t op, uint64_t off, Bytes& data, uint32_t flags = 0) {
    pcache_request request{op, flags, off, data.size(), data.data(), 0, 0, nullptr};
    if (queue_->submit(&request) == 0) {
      pcache_request* done[1];
      EXPECT_EQ(queue_->reap(done, 1, 1, -1), 1);
    }
    return request.result;
  }
  int write(uint64_t off, uint64_t len, int value, uint32_t flags = 0) {
    Bytes data(len, std::byte(value));
    return request(PCACHE_OP_WRITE, off, data, flags);
  }
  // As write(), for a write that may stall; the clock stands still.
  int write_through(uint64_t off, uint64_t len, int value, uint32_t flags = 0) {
    Bytes data(len, std::byte(value));
    pcache_request request{PCACHE_OP_WRITE, flags, off, len, data.data(), 0, 0, nullptr};
    if (queue_->submit(&request) == 1) return request.result;
    waited_++;
    pcache_request* done[1];
    executor_->advance(std::chrono::milliseconds(0));
    EXPECT_EQ(queue_->reap(done, 0, 1, 0), 1) << "space is made at once, not by the clock";
    return request.result;
  }
  // The one value of all bytes of the range; -1 if it has the device's content.
  int value_at(uint64_t off, uint64_t len) {
    Bytes data(len);
    EXPECT_EQ(request(PCACHE_OP_READ, off, data), 0);
    if (data == MemoryDevice::pattern(off, len)) return -1;
    EXPECT_EQ(data, Bytes(len, data[0]));
    return static_cast<int>(data[0]);
  }

  MemoryPmem memory_;
  std::string backing_ = "disk serial=A";
  uint64_t logical_bytes_ = kLogicalBytes;
  bool unique_backing_ = true;
  int sync_error_ = 0;  // of the backing device's size
  Options options_;
  LogLines lines_;
  MemoryDevice* device_ = nullptr;       // of the attached cache
  SteppedExecutor* executor_ = nullptr;  // of the attached cache
  std::unique_ptr<Cache> cache_;
  std::unique_ptr<Queue> queue_;
  int waited_ = 0;  // writes of write_through() that stalled
};

}  // namespace pcache
