// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback, reclaim and stalled writes together, with a clock that the test turns.
#include <thread>

#include "cache/cache_for_test.h"
#include "cache/status.h"

namespace pcache {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class CacheBackground : public CacheTest {
 protected:
  void SetUp() override { memory_.set_recording(false); }
  Bytes on_device(uint64_t off, uint64_t len) { return device_->peek(off, len); }
};

// The smallest cache, overwritten many times in writes of 1 MiB; hazards no-log-reserve,
// nobody-wakes.
TEST_F(CacheBackground, AFullCacheGoesOnWithoutTheClock) {
  for (const bool crc : {false, true}) {
    memory_.poke(MediaOff{0}, Bytes(media::kSegmentsOff).data(), media::kSegmentsOff);
    options_.data_crc = crc;
    options_.flush_delay_ms = 60000;
    attach();
    int value = 0;
    for (int i = 0; i < 1200; i++) {
      value = i / 64 % 200 + 1;
      ASSERT_EQ(write_through(static_cast<uint64_t>(i) % 64 << 20, 1 << 20, value), 0) << i;
    }
    EXPECT_GT(waited_, 0);
    for (uint64_t at = 0; at < 48; at += 7) EXPECT_EQ(value_at(at << 20, 1 << 20), value);
    ASSERT_TRUE(cache_->drain().ok());
    for (uint64_t at = 0; at < 64; at++) {
      const int expected = at < 1200 % 64 ? value : value - 1;
      EXPECT_EQ(on_device(at << 20, 4096), Bytes(4096, std::byte(expected))) << at;
    }
    detach();
    attach();
    EXPECT_EQ(cache_->replayed().dirty_keys, 0u);
    EXPECT_EQ(value_at(0, 1 << 20), value);
    detach();
  }
}

TEST_F(CacheBackground, TinyFuaWritesNeverStarveTheLog) {
  attach();
  for (int i = 0; i < 480; i++)
    ASSERT_EQ(write_through(static_cast<uint64_t>(i) % 60 << 20, 1 << 20, 1), 0);
  for (uint64_t i = 0; i < 60000; i++)
    ASSERT_EQ(write_through(i % 4096 * 512, 512, 2, PCACHE_REQ_FUA), 0) << i;
  EXPECT_EQ(value_at(0, 1 << 20), 2);
  detach();
}

TEST_F(CacheBackground, TheIntervalWritesBackWhatIsClosed) {
  attach();
  ASSERT_EQ(write(0, 4096, 7), 0);
  executor_->advance(milliseconds(2000));
  EXPECT_EQ(on_device(0, 4096), MemoryDevice::pattern(0, 4096)) << "not before its time";
  executor_->advance(milliseconds(3000));
  EXPECT_EQ(on_device(0, 4096), Bytes(4096, std::byte(7)));
  EXPECT_EQ(cache_->tails().dirty_tail(), cache_->log().head());
  detach();
}

TEST_F(CacheBackground, ADrainThatIsGivenUpLeavesTheRestDirty) {
  attach();
  for (uint64_t epoch = 0; epoch < 4; epoch++)
    ASSERT_EQ(write(epoch * 8192, 4096, 1, PCACHE_REQ_FUA), 0);
  std::atomic<bool> given_up{false};
  device_->set_on_change([&](const MemoryDevice::Change& change) {
    if (change.op == BlockOp::kFlush && change.completed) given_up = true;
  });
  const Status drained = cache_->drain(&given_up);
  ASSERT_FALSE(drained.ok());
  EXPECT_EQ(drained.error().code, ECANCELED);
  EXPECT_THAT(drained.error().text, HasSubstr("12288 bytes of dirty data are left"));
  device_->set_on_change(nullptr);
  EXPECT_TRUE(cache_->drain().ok()) << "another one goes on";
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  detach();
}

// What is given up is no failure of the device, and is done by the next that works.
TEST_F(CacheBackground, WritebackThatIsGivenUpGoesOnLater) {
  attach();
  ASSERT_EQ(write(0, 4096, 7), 0);
  cache_->give_up_writeback(true);
  executor_->advance(milliseconds(6000));
  EXPECT_EQ(on_device(0, 4096), MemoryDevice::pattern(0, 4096));
  EXPECT_FALSE(cache_->worker().state().failing);
  EXPECT_TRUE(lines_.lines.empty());
  cache_->give_up_writeback(false);
  executor_->advance(milliseconds(6000));
  EXPECT_EQ(on_device(0, 4096), Bytes(4096, std::byte(7)));
  detach();
}

TEST_F(CacheBackground, CommitMakesDurableAndTellsNoLoss) {
  attach();
  ASSERT_EQ(write(0, 4096, 7), 0);
  ASSERT_GT(cache_->stripes().open_keys(), 0u);
  cache_->requests().data_lost(EIO);
  EXPECT_TRUE(cache_->commit().ok());
  EXPECT_EQ(cache_->stripes().open_keys(), 0u);
  pcache_request flush{PCACHE_OP_FLUSH, 0, 0, 0, nullptr, 0, 0, nullptr};
  EXPECT_EQ(queue_->submit(&flush), 1);
  EXPECT_EQ(flush.result, -EIO) << "which is for a FLUSH to tell";
  detach();
}

TEST_F(CacheBackground, CloseLeavesDirtyDataOrDrainsIt) {
  attach();
  ASSERT_EQ(write(0, 4096, 7), 0);
  queue_.reset();
  ASSERT_TRUE(cache_->close().ok());
  EXPECT_EQ(on_device(0, 4096), MemoryDevice::pattern(0, 4096));
  detach();
  options_.drain = true;
  attach();
  EXPECT_EQ(value_at(0, 4096), 7);
  queue_.reset();
  ASSERT_TRUE(cache_->close().ok());
  EXPECT_EQ(on_device(0, 4096), Bytes(4096, std::byte(7)));
  detach();
}

// Hazard last-flush-ignored: close() returns the error of a drain that fails.
TEST_F(CacheBackground, ADrainThatFailsAtCloseIsReportedAndNothingIsLost) {
  options_.drain = true;
  attach();
  ASSERT_EQ(write(0, 4096, 7), 0);
  queue_.reset();
  device_->set_error(EIO);
  const Status closed = cache_->close();
  ASSERT_FALSE(closed.ok());
  EXPECT_EQ(closed.error().code, EIO);
  EXPECT_THAT(closed.error().text, HasSubstr("writing back failed"));
  detach();
  options_.drain = false;
  attach();
  EXPECT_EQ(value_at(0, 4096), 7);
  detach();
}

TEST_F(CacheBackground, GcPercentChangesWhileRunningAndStays) {
  attach();
  EXPECT_FALSE(cache_->set_gc_percent(91).ok());
  EXPECT_FALSE(cache_->set_gc_percent(-1).ok());
  EXPECT_FALSE(cache_->set_gc_percent(256).ok()) << "hazard option-truncated";
  ASSERT_EQ(write(0, 4096, 7), 0);
  executor_->advance(milliseconds(5000));
  EXPECT_EQ(cache_->index().mapped_bytes(), 4096u) << "clean, and kept";
  ASSERT_TRUE(cache_->set_gc_percent(0).ok());
  executor_->advance(milliseconds(0));
  EXPECT_EQ(cache_->index().mapped_bytes(), 0u) << "at 0 percent what is clean goes";
  EXPECT_EQ(value_at(0, 4096), 7) << "from the device";
  EXPECT_THAT(status_line(*cache_), HasSubstr(" 0 2 "));
  detach();
  attach();
  EXPECT_EQ(cache_->gc_percent(), 0u);
  detach();
}

TEST_F(CacheBackground, OptionsChangeWhileItIsOpen) {
  attach();
  const auto error = [this](const char* name, const char* text) {
    const Status set = cache_->set(name, text);
    return set ? "ok" : set.error().text;
  };
  EXPECT_EQ(error("dirty_low_percent", "40"), "ok");
  EXPECT_EQ(error("dirty_high_percent", "30"),
            "option dirty_low_percent: 40 is more than dirty_high_percent, which is 30; set it to "
            "that at most, or to auto");
  EXPECT_EQ(cache_->worker().dirty_limits().high_percent, 100u) << "nothing has changed";
  EXPECT_EQ(error("dirty_low_percent", "auto"), "ok");
  EXPECT_EQ(cache_->worker().dirty_limits().low_percent, 90u);
  EXPECT_EQ(error("dirty_high_percent", "5"), "ok");
  EXPECT_EQ(cache_->worker().dirty_limits().low_percent, 0u);
  EXPECT_EQ(error("writeback_rate", "2m"), "ok");
  EXPECT_EQ(cache_->worker().dirty_limits().bytes_per_second, 2u << 20);
  EXPECT_TRUE(cache_->writeback().strict());
  EXPECT_EQ(error("backing_order", "relaxed"), "ok");
  EXPECT_FALSE(cache_->writeback().strict());
  EXPECT_EQ(error("gc_percent", "80"), "ok");
  EXPECT_EQ(cache_->gc_percent(), 80u);
  EXPECT_THAT(error("gc_percent", "91"), HasSubstr("option gc_percent=91: expected"));
  EXPECT_EQ(
      error("data_crc", "1"),
      "option data_crc: an open cache keeps it; gc_percent, cache_mode, backing_order, policy, "
      "dirty_high_percent, dirty_low_percent, writeback_rate, seq_cutoff, read_ahead, "
      "flush_delay_ms, writeback_interval_ms and drain can be changed");
  EXPECT_THAT(error("dirty", "1"), HasSubstr("option dirty: there is none of this name"));
  detach();
}

TEST_F(CacheBackground, WhetherItDrainsAtTheEndCanBeChanged) {
  for (const bool drain : {true, false}) {
    options_.drain = !drain;
    attach();
    ASSERT_EQ(write(0, 4096, drain ? 1 : 2), 0);
    ASSERT_TRUE(cache_->set("drain", drain ? "1" : "0").ok());
    detach();
    options_.drain = false;
    attach();
    EXPECT_EQ(cache_->dirty().live_bytes, drain ? 0u : 4096u);
    detach();
  }
}

TEST_F(CacheBackground, ChangedTimesHoldForWhatIsOpenAndDirty) {
  options_.flush_delay_ms = 60000;
  options_.writeback_interval_ms = 3600000;
  attach();
  ASSERT_EQ(write(0, 4096, 7), 0);
  executor_->advance(milliseconds(2000));
  EXPECT_EQ(cache_->stripes().open_keys(), 1u);
  ASSERT_TRUE(cache_->set("flush_delay_ms", "100").ok());
  executor_->advance(milliseconds(100));
  EXPECT_EQ(cache_->stripes().open_keys(), 0u);
  EXPECT_EQ(cache_->dirty().live_bytes, 4096u);
  ASSERT_TRUE(cache_->set("writeback_interval_ms", "1000").ok());
  executor_->advance(milliseconds(2000));  // the first tick sees the write, the second no other
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  ASSERT_TRUE(cache_->set("flush_delay_ms", "60000").ok());
  ASSERT_EQ(write(0, 4096, 8), 0);
  executor_->advance(milliseconds(20000));
  EXPECT_EQ(cache_->stripes().open_keys(), 1u) << "longer again";
  detach();
}

TEST_F(CacheBackground, ACleanerLeavesNothingDirty) {
  attach();
  ASSERT_TRUE(cache_->set("dirty_high_percent", "0").ok());
  ASSERT_EQ(write(0, 4096, 7), 0);
  executor_->advance(milliseconds(1000));
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  EXPECT_EQ(on_device(0, 4096), Bytes(4096, std::byte(7)));
  detach();
}

TEST_F(CacheBackground, AFailingDeviceIsShownAndHeals) {
  attach();
  ASSERT_EQ(write(0, 4096, 7), 0);
  device_->set_error(EIO);
  executor_->advance(milliseconds(5000));
  EXPECT_TRUE(cache_->worker().state().failing);
  EXPECT_THAT(cache_->worker().state().last_error, HasSubstr("writing back failed"));
  Bytes none;
  EXPECT_EQ(request(PCACHE_OP_FLUSH, 0, none), 0) << "what FLUSH promises is pmem";
  EXPECT_NE(cache_->tails().dirty_tail(), cache_->log().head());
  device_->set_error(0);
  executor_->advance(milliseconds(10000));
  EXPECT_FALSE(cache_->worker().state().failing);
  EXPECT_EQ(on_device(0, 4096), Bytes(4096, std::byte(7)));
  detach();
}

// While the device fails, more is written than the cache holds: writes stall, and complete later.
TEST_F(CacheBackground, WritesWaitForADeviceThatHeals) {
  attach();
  device_->set_error(EIO);
  Bytes data(1 << 20, std::byte(3));
  pcache_request* done[1];
  pcache_request one{};
  for (uint64_t i = 0;; i++) {
    ASSERT_LT(i, 600u);
    // A barrier after each: what is superseded has to be written, too.
    one = {PCACHE_OP_WRITE, PCACHE_REQ_FUA, i % 64 << 20, data.size(), data.data(), 0, 0, nullptr};
    if (queue_->submit(&one) == 1) continue;
    executor_->advance(milliseconds(60000));
    if (queue_->reap(done, 0, 1, 0) == 0) break;  // the throttle is off, but no segment is free
  }
  EXPECT_EQ(cache_->segments().counts().free, cache_->segments().counts().log_reserve);
  device_->set_error(0);
  executor_->advance(milliseconds(10000));
  EXPECT_EQ(queue_->reap(done, 0, 1, 0), 1);
  EXPECT_EQ(one.result, 0);
  detach();
}

// Real executors, for the sanitizers: writers, readers and a drain on a full cache.
TEST_F(CacheBackground, ManyThreadsOnAFullCache) {
  for (const bool crc : {false, true}) {
    memory_.poke(MediaOff{0}, Bytes(media::kSegmentsOff).data(), media::kSegmentsOff);
    options_.data_crc = crc;
    auto backing = std::make_unique<MemoryDevice>(kLogicalBytes);
    MemoryDevice* device = backing.get();
    auto attached =
        Cache::attach({memory_.make_pmem(), std::move(backing), std::make_unique<ThreadExecutor>(),
                       std::make_unique<ThreadExecutor>()},
                      options_);
    ASSERT_TRUE(attached.ok()) << attached.error().text;
    const std::unique_ptr<Cache> cache = attached.take();
    constexpr uint64_t kEach = 16 << 20, kBlock = 256 << 10;
    const auto run = [](Queue& queue, pcache_request& request) {
      pcache_request* done[1];
      if (queue.submit(&request) == 0) {
        EXPECT_EQ(queue.reap(done, 1, 1, -1), 1);
      }
      EXPECT_EQ(request.result, 0);
    };
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++)
      threads.emplace_back([&, t] {
        const auto queue = cache->create_queue(4).take();
        Bytes data(kBlock), got(kBlock);
        for (int round = 1; round <= 10; round++) {
          std::fill(data.begin(), data.end(), std::byte(round));
          for (uint64_t at = 0; at < kEach; at += kBlock) {
            const uint32_t flags = at % (8 * kBlock) == 0 ? PCACHE_REQ_FUA : 0;
            pcache_request write{PCACHE_OP_WRITE, flags, t * kEach + at, kBlock, data.data(), 0, 0,
                                 nullptr};
            run(*queue, write);
            pcache_request read{
                PCACHE_OP_READ, 0, t * kEach + (at * 7 + at) % kEach, kBlock, got.data(), 0, 0,
                nullptr};
            run(*queue, read);
          }
          if (t == 0) {
            EXPECT_TRUE(cache->drain().ok());
          }
          EXPECT_FALSE(status_json(*cache).empty());
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(cache->drain().ok());
    EXPECT_GT(cache->reclaim().counters().ksets.load(), 0u);
    for (uint64_t at = 0; at < kLogicalBytes; at += 8 << 20)
      EXPECT_EQ(device->peek(at, 4096), Bytes(4096, std::byte(10)));
    EXPECT_TRUE(cache->close().ok());
  }
}

}  // namespace
}  // namespace pcache
