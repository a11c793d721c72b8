// SPDX-License-Identifier: GPL-2.0-or-later
// A whole cache while memory is short: open, close, status, and each background step. The N-th
// allocation fails, alone or with all later ones, for every N. Afterwards the cache works, all
// dirty data is written back and all its space comes free.
#include <new>
#include <optional>
#include <thread>

#include "cache/cache_for_test.h"
#include "cache/status.h"
#include "testing/shortage/failing_memory.h"

namespace pcache {
namespace {

using ::testing::HasSubstr;
using Milliseconds = Executor::Milliseconds;

constexpr uint64_t kPage = kPageBytes;

class CacheMemoryShortage : public CacheTest {
 protected:
  void SetUp() override {
    memory_.set_recording(false);
    options_.writeback_interval_ms = 1000;
    attach();
    ASSERT_FALSE(HasFatalFailure());
    detach();
  }
  // 0: no exception came out of it.
  template <typename Act>
  static uint64_t without_memory(uint64_t pass, uint64_t fail, Act act) {
    const FailingMemory failing(pass, fail);
    try {
      act();
    } catch (const std::bad_alloc&) {
      return 1;
    }
    return 0;
  }
  // For each N, until no allocation fails.
  template <typename Round>
  void for_every_shortage(Round round) {
    for (const uint64_t fail : {uint64_t{1}, FailingMemory::kAll})
      for (uint64_t pass = 0;; pass++) {
        SCOPED_TRACE(::testing::Message() << "allocation " << pass << (fail == 1 ? "" : " and on"));
        round(pass, fail);
        if (HasFailure() || allocations_failed() == 0) break;
      }
  }
  void make_blank() {
    const Bytes zeros(64 << 10);
    memory_.poke(MediaOff{0}, zeros.data(), zeros.size());
  }
  void write_some() {
    for (uint64_t i = 0; i < 40; i++)
      ASSERT_EQ(write(i % 20 * 3 * kPage + i / 20 * 512, kPage, 1 + static_cast<int>(i % 20)), 0);
    ASSERT_EQ(request(PCACHE_OP_FLUSH, 0, nothing_), 0);
  }
  void expect_all_there() {
    for (uint64_t i = 0; i < 20; i++)
      EXPECT_EQ(value_at(i * 3 * kPage + 512, kPage), 1 + static_cast<int>(i)) << i;
  }
  // Damages the data that the cache has at this offset.
  void damage(uint64_t off) {
    Piece piece;
    Index::Snapshot snapshot;
    cache_->index().lookup({off, 512}, {&piece, 1}, &snapshot);
    ASSERT_EQ(piece.kind, Piece::Kind::kHit);
    memory_.flip_bit(cache_->segments().media(piece.pos));
  }
  // All dirty data is written back, and all space comes free.
  void expect_all_comes_back() {
    ASSERT_TRUE(cache_->drain().ok());
    ASSERT_TRUE(cache_->set_gc_percent(0).ok());
    executor_->advance(Milliseconds{60000});
    EXPECT_EQ(cache_->tails().key_tail(), cache_->log().head());
    const SegmentCounts counts = cache_->segments().counts();
    EXPECT_EQ(counts.log, 1u);
    EXPECT_LE(counts.data, 1u) << "the one that is filled";
    EXPECT_EQ(cache_->index().mapped_bytes(), 0u);
    expect_all_there();
    ASSERT_TRUE(cache_->set_gc_percent(70).ok());
  }

  Bytes nothing_;
};

TEST_F(CacheMemoryShortage, Opening) {
  for_every_shortage([this](uint64_t pass, uint64_t fail) {
    options_.log = lines_.log();
    auto backing = std::make_unique<MemoryDevice>(logical_bytes_);
    backing->set_identity(backing_);
    Cache::Devices devices{memory_.make_pmem(), std::move(backing),
                           std::make_unique<SteppedExecutor>()};
    without_memory(pass, fail, [&] {
      auto cache = Cache::attach(std::move(devices), options_);
      const PassAllocations pass_on;
      EXPECT_TRUE(cache.ok() || cache.error().code == ENOMEM) << cache.error().text;
      if (cache.ok()) {
        EXPECT_TRUE(cache.value()->close().ok());
      }
    });
  });
  attach();
  write_some();
  expect_all_there();
  detach();
}

TEST_F(CacheMemoryShortage, Closing) {
  for (const bool drain : {false, true}) {
    options_.drain = drain;
    for_every_shortage([this](uint64_t pass, uint64_t fail) {
      make_blank();
      attach();
      write_some();
      ASSERT_EQ(write(0, 512, 99), 0);  // in an open kset
      queue_.reset();
      Status closed;
      EXPECT_EQ(without_memory(pass, fail, [&] { closed = cache_->close(); }), 0u);
      if (!closed) {
        EXPECT_EQ(closed.error().code, ENOMEM) << closed.error().text;
      }
      cache_.reset();
      if (options_.drain) return detach();  // its new device lacks what was written back
      attach();
      EXPECT_EQ(value_at(0, 512), 99);
      expect_all_there();
      detach();
    });
  }
}

// The text of the device's error is too long for a string to keep without an allocation.
TEST_F(CacheMemoryShortage, ClosingAfterTheDeviceHadFailed) {
  for_every_shortage([this](uint64_t pass, uint64_t fail) {
    make_blank();
    attach();
    write_some();
    device_->set_error(EIO);
    executor_->advance(Milliseconds{2500});
    device_->set_error(0);
    executor_->advance(Milliseconds{30000});
    ASSERT_FALSE(cache_->worker().state().failing);
    ASSERT_THAT(cache_->worker().state().last_error, HasSubstr("writing back failed"));
    ASSERT_EQ(write(0, 512, 99), 0);  // in an open kset
    queue_.reset();
    EXPECT_EQ(without_memory(pass, fail, [&] { (void)cache_->close().ok(); }), 0u);
    cache_.reset();
    attach();
    EXPECT_EQ(value_at(0, 512), 99);
    detach();
  });
}

TEST_F(CacheMemoryShortage, Status) {
  attach();
  write_some();
  for (const auto print : {status_json, status_line})
    for_every_shortage([&](uint64_t pass, uint64_t fail) {
      std::optional<std::string> text;
      const uint64_t thrown = without_memory(pass, fail, [&] { text = print(*cache_); });
      EXPECT_EQ(text.has_value(), thrown == 0);
    });
  expect_all_there();
  expect_all_comes_back();
  detach();
}

TEST_F(CacheMemoryShortage, SettingGcPercentAndDraining) {
  for_every_shortage([this](uint64_t pass, uint64_t fail) {
    attach();
    write_some();
    Status drained, set;
    EXPECT_EQ(without_memory(pass, fail,
                             [&] {
                               set = cache_->set_gc_percent(60);
                               drained = cache_->drain();
                             }),
              0u);
    EXPECT_TRUE(set.ok());
    EXPECT_EQ(drained.ok(), allocations_failed() == 0);
    if (!drained) {
      EXPECT_EQ(drained.error().code, ENOMEM);
    }
    expect_all_comes_back();
    detach();
  });
}

// Closing by time, writeback, and reclaim, until each has succeeded. A step without memory says so
// in the status; with memory it goes on by itself.
TEST_F(CacheMemoryShortage, BackgroundSteps) {
  bool writeback_said = false, reclaim_said = false;
  for (const uint32_t gc_percent : {70u, 0u})
    for_every_shortage([&](uint64_t pass, uint64_t fail) {
      attach();
      ASSERT_TRUE(cache_->set_gc_percent(gc_percent).ok());
      write_some();
      ASSERT_EQ(write(60 * kPage, kPage, 5), 0);  // in an open kset
      EXPECT_EQ(without_memory(pass, fail, [&] { executor_->advance(Milliseconds{2500}); }), 0u);
      const std::string status = status_json(*cache_);
      if (cache_->worker().state().failing) {
        writeback_said = true;
        EXPECT_THAT(status, HasSubstr("\"last_error\": \"out of memory\""));
      }
      if (cache_->worker().reclaim_fault()) {
        reclaim_said = true;
        EXPECT_THAT(status, HasSubstr("\"state\": \"out of memory\""));
      }
      executor_->advance(Milliseconds{30000});
      EXPECT_FALSE(cache_->worker().state().failing);
      EXPECT_EQ(cache_->worker().reclaim_fault(), nullptr);
      EXPECT_EQ(cache_->tails().dirty_tail(), cache_->log().head()) << "all is written back";
      EXPECT_EQ(value_at(60 * kPage, kPage), 5);
      expect_all_there();
      expect_all_comes_back();
      detach();
    });
  EXPECT_TRUE(writeback_said);
  EXPECT_TRUE(reclaim_said);
}

// A batch with damaged dirty data: its keys are neither lost nor appended twice, and the next FLUSH
// reports the damage.
TEST_F(CacheMemoryShortage, WritebackOfDamagedData) {
  options_.data_crc = true;
  for_every_shortage([&](uint64_t pass, uint64_t fail) {
    make_blank();
    attach();
    ASSERT_FALSE(HasFatalFailure());
    write_some();
    for (const uint64_t page : {0, 9, 30}) damage(page * kPage + kPage / 2);
    Status drained;
    EXPECT_EQ(without_memory(pass, fail, [&] { drained = cache_->drain(); }), 0u);
    for (int i = 0; i < 3; i++) (void)cache_->drain().ok();
    EXPECT_EQ(cache_->drain().error().code, EIO);
    EXPECT_EQ(request(PCACHE_OP_FLUSH, 0, nothing_), -EIO) << "the loss is told";
    EXPECT_EQ(request(PCACHE_OP_FLUSH, 0, nothing_), 0) << "once";
    for (const uint64_t page : {0, 9, 30}) {
      Bytes data(kPage);
      EXPECT_EQ(request(PCACHE_OP_READ, page * kPage, data), -EIO) << page;
    }
    queue_.reset();
    EXPECT_TRUE(cache_->close().ok());
    cache_.reset();
    attach();  // the device is a new one: dirty is what the log has
    for (const uint64_t page : {0, 9, 30}) {
      Bytes data(kPage);
      EXPECT_EQ(request(PCACHE_OP_READ, page * kPage, data), -EIO) << page;
      ASSERT_EQ(write(page * kPage, 2 * kPage, 1), 0);  // all of what is damaged
    }
    const Status drained_all = cache_->drain();
    ASSERT_TRUE(drained_all.ok()) << drained_all.error().text;
    detach();
  });
}

// Memory is short once more when the batch goes on: the log has the damaged keys and their copies
// then, and dirty_tail must not pass both.
TEST_F(CacheMemoryShortage, WritebackOfDamagedDataTwice) {
  options_.data_crc = true;
  bool failed = true;
  for (uint64_t pass = 0; failed && !HasFailure(); pass++) {
    SCOPED_TRACE(::testing::Message() << "allocation " << pass);
    make_blank();
    attach();
    ASSERT_FALSE(HasFatalFailure());
    for (const uint64_t page : {0, 9}) ASSERT_EQ(write(page * kPage, kPage, 1), 0);
    for (const uint64_t page : {0, 9}) damage(page * kPage);
    (void)without_memory(pass, 1, [&] { (void)cache_->drain().ok(); });
    failed = allocations_failed() > 0;
    (void)without_memory(0, 1, [&] { (void)cache_->drain().ok(); });
    for (int i = 0; i < 4; i++) EXPECT_EQ(cache_->drain().error().code, EIO);
    ASSERT_EQ(write(20 * kPage, kPage, 5), 0);
    EXPECT_EQ(cache_->drain().error().code, EIO);
    EXPECT_EQ(device_->peek(20 * kPage, kPage), Bytes(kPage, std::byte{5})) << "it goes on";
    queue_.reset();
    EXPECT_TRUE(cache_->close().ok());
    cache_.reset();
    attach();  // the device is a new one: dirty is what the log has
    for (const uint64_t page : {0, 9}) {
      Bytes data(kPage);
      EXPECT_EQ(request(PCACHE_OP_READ, page * kPage, data), -EIO) << page;
    }
    detach();
  }
}

// At its first lock the thread has no memory for its record, and locks all the same.
TEST(ThreadWithoutMemory, TakesItsFirstLock) {
  BiasedMutex mu;
  int n = 0;
  std::thread([&] {
    const FailingMemory failing(0);
    for (int i = 0; i < 100; i++) {
      BiasedLock lock(mu);
      n++;
    }
  }).join();
  EXPECT_EQ(n, 100);
}

}  // namespace
}  // namespace pcache
