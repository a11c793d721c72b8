// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/read_ahead.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "request/request_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kMiB = 1 << 20;

class ReadAheadTest : public RequestTest, public ::testing::WithParamInterface<bool> {
 protected:
  void begin(RequestOptions options = {}) {
    options.data_crc = GetParam();
    start(options);
    state_->set_read_ahead_bytes(64 << 10);
  }
  uint64_t ahead_bytes() const { return state_->counters().fill_ahead_bytes.load(); }
  // Of a request that is in flight, once the device lets go what it holds.
  void finish(Read* read) {
    device_->release_all();
    pcache_request* done = nullptr;
    ASSERT_EQ(queue_->reap(&done, 1, 1, -1), 1);
    ASSERT_EQ(done, &read->request);
  }
  // Two misses in a row; behind them 8 KiB are read ahead, which the device holds.
  void begin_one(uint64_t off = 0) {
    read(off, 4096);
    device_->hold();
    second_ = submit_read(off + 4096, 4096);
    ASSERT_EQ(device_->held(), 2u);
    EXPECT_EQ(device_->reads().back(), (Extent{off + 8192, 8192}));
  }
  std::unique_ptr<Read> second_;
};
INSTANTIATE_TEST_SUITE_P(, ReadAheadTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "crc_on" : "crc_off"; });

TEST_P(ReadAheadTest, OneReadOfTheDeviceServesManySmallOnes) {
  begin();
  for (uint64_t off = 0; off < 8 * kMiB; off += 4096)
    ASSERT_EQ(read(off, 4096), device_bytes(off, 4096)) << off;
  // Each 64 KiB and their miss: 68; and what it takes to get going.
  EXPECT_LT(device_->reads().size(), 2 * (8 * kMiB / (68 << 10) + 8));
  EXPECT_GT(ahead_bytes(), 7 * kMiB);
  EXPECT_EQ(state_->counters().fills_uncached.load(), 0u);
  const size_t reads = device_->reads().size();
  for (uint64_t off = 0; off < 8 * kMiB; off += 4096)
    ASSERT_EQ(read(off, 4096), device_bytes(off, 4096)) << off;
  EXPECT_EQ(device_->reads().size(), reads) << "all of it is cached";
}

TEST_P(ReadAheadTest, ItDoublesUpToTheOption) {
  begin();
  std::vector<uint64_t> ahead;
  for (uint64_t off = 0; off < kMiB; off += 4096) {
    read(off, 4096);
    if (const Extent last = device_->reads().back(); last.len > 4096) ahead.push_back(last.len);
  }
  ahead.erase(std::unique(ahead.begin(), ahead.end()), ahead.end());
  EXPECT_THAT(ahead, ElementsAre(8 << 10, 16 << 10, 32 << 10, 64 << 10));
}

TEST_P(ReadAheadTest, OnlyARunIsReadAhead) {
  begin();
  for (const uint64_t page : {100, 7, 500, 499, 498, 1000, 300}) read(page * 4096, 4096);
  EXPECT_EQ(ahead_bytes(), 0u);
  state_->set_read_ahead_bytes(0);
  for (uint64_t page = 2000; page < 2010; page++) read(page * 4096, 4096);
  EXPECT_EQ(ahead_bytes(), 0u);
}

TEST_P(ReadAheadTest, WhatIsCachedOrOnItsWayEndsIt) {
  begin();
  ASSERT_EQ(write(12288, filled(4096, 1)), 0);
  read(0, 4096);
  read(4096, 4096);
  EXPECT_EQ(device_->reads().back(), (Extent{8192, 4096}));
  ASSERT_EQ(write(kMiB + 8192, filled(4096, 1)), 0);
  read(kMiB, 4096);
  read(kMiB + 4096, 4096);
  EXPECT_EQ(device_->reads().back(), (Extent{kMiB + 4096, 4096})) << "it begins with a hit";
}

TEST_P(ReadAheadTest, ItEndsWithTheRangeAndWithTheDevice) {
  RequestOptions options;
  options.logical_bytes = 6 * kMiB;
  begin(options);
  for (const uint64_t end : {uint64_t{kRangeBytes}, 6 * kMiB}) {
    read(end - 12288, 4096);
    read(end - 8192, 4096);
    EXPECT_EQ(device_->reads().back(), (Extent{end - 4096, 4096}));
    EXPECT_EQ(read(end - 4096, 4096), device_bytes(end - 4096, 4096));
  }
}

TEST_P(ReadAheadTest, AReaderJoins) {
  begin();
  begin_one();
  const auto joined = submit_read(8192, 4096);
  ASSERT_EQ(joined->submitted, 0);
  EXPECT_EQ(device_->held(), 2u);
  device_->release_all();
  pcache_request* done[2];
  ASSERT_EQ(queue_->reap(done, 2, 2, -1), 2);
  EXPECT_EQ(joined->data, device_bytes(8192, 4096));
  EXPECT_EQ(mapped(0, 16384), std::string(32, 'C'));
}

TEST_P(ReadAheadTest, AReaderOfAnotherQueueHelpsItself) {
  begin();
  begin_one();
  const auto other = make_queue();
  const auto joined = submit_read(*other, 12288, 4096);
  device_->release_all();
  pcache_request* done = nullptr;
  ASSERT_EQ(other->reap(&done, 1, 1, -1), 1);
  EXPECT_EQ(joined->data, device_bytes(12288, 4096));
  ASSERT_EQ(queue_->reap(&done, 1, 1, -1), 1);
}

TEST_P(ReadAheadTest, AWriteInBetweenStands) {
  begin();
  begin_one();
  ASSERT_EQ(write(8192, filled(1024, 3)), 0);
  finish(second_.get());
  reap(*queue_);
  EXPECT_EQ(read_sectors(8192, 8192), "33dddddddddddddd");
  EXPECT_EQ(mapped(8192, 8192), "DDCCCCCCCCCCCCCC");
}

// A bad place that nobody has asked for fails nobody.
TEST_P(ReadAheadTest, WhereItFailsTheReaderReadsForItself) {
  begin();
  device_->set_fate([](BlockOp op, const Extent& extent) {
    const bool bad = op == BlockOp::kRead && extent.off <= 12288 && 12288 < extent.end();
    return MemoryDevice::Fate{bad ? EIO : 0, 0};
  });
  begin_one();
  const auto sound = submit_read(8192, 4096), damaged = submit_read(12288, 4096);
  device_->release_all();
  pcache_request* done[3];
  ASSERT_EQ(queue_->reap(done, 3, 3, -1), 3);
  EXPECT_EQ(second_->request.result, 0);
  EXPECT_EQ(sound->request.result, 0);
  EXPECT_EQ(sound->data, device_bytes(8192, 4096));
  EXPECT_EQ(damaged->request.result, -EIO);
  EXPECT_EQ(mapped(8192, 8192), "................");
  EXPECT_EQ(queue_->free_fills(), Queue::fills_for(16));
}

// Likewise of a read that somebody has asked for: of what only the other one needs.
TEST_P(ReadAheadTest, AReadThatFailsFailsWhoAskedForAllOfIt) {
  begin();
  device_->hold();
  device_->set_fate([](BlockOp, const Extent& extent) {
    return MemoryDevice::Fate{extent.off <= 12288 && 12288 < extent.end() ? EIO : 0, 0};
  });
  const auto all = submit_read(0, 16384), same = submit_read(0, 16384), part = submit_read(0, 4096);
  EXPECT_EQ(device_->held(), 1u);
  device_->release_all();
  pcache_request* done[3];
  ASSERT_EQ(queue_->reap(done, 3, 3, -1), 3);
  EXPECT_EQ(all->request.result, -EIO);
  EXPECT_EQ(same->request.result, -EIO);
  EXPECT_EQ(part->request.result, 0);
  EXPECT_EQ(part->data, device_bytes(0, 4096));
}

TEST_P(ReadAheadTest, NothingIsReadAheadThatWouldNotBeKept) {
  begin();
  state_->set_seq_cutoff_bytes(64 << 10);
  for (uint64_t off = 0; off < kMiB; off += 4096) read(off, 4096);
  EXPECT_GT(ahead_bytes(), 0u);
  EXPECT_EQ(state_->counters().fill_kept_bytes.load(), 64u << 10);
  set_mode(CacheMode::kPassthrough);
  const uint64_t before = ahead_bytes();
  state_->set_seq_cutoff_bytes(0);
  for (uint64_t off = 2 * kMiB; off < 3 * kMiB; off += 4096) read(off, 4096);
  EXPECT_EQ(ahead_bytes(), before);
}

TEST_P(ReadAheadTest, BlocksOfTheDeviceAreWhole) {
  RequestOptions options;
  options.block_bytes = 16384;
  begin(options);
  for (uint64_t off = 0; off < kMiB; off += 16384)
    ASSERT_EQ(read(off, 16384), device_bytes(off, 16384));
  EXPECT_GT(ahead_bytes(), 0u);
  for (const Extent& extent : device_->reads()) EXPECT_EQ((extent.off | extent.len) % 16384, 0u);
}

TEST_P(ReadAheadTest, AQueueThatGoesWaitsForIt) {
  begin();
  begin_one();
  device_->release(0);
  pcache_request* done = nullptr;
  ASSERT_EQ(queue_->reap(&done, 1, 1, -1), 1);
  std::thread later([this] { device_->release_all(); });
  queue_.reset();
  later.join();
  queue_ = make_queue();
  EXPECT_EQ(mapped(8192, 8192), std::string(16, 'C'));
}

// Pages stay whole, and where a program skips it may go on skipping.
TEST_P(ReadAheadTest, PagesAreWhole) {
  begin();
  state_->set_read_ahead_bytes(5000);
  for (uint64_t off = 0; off < 64 << 10; off += 512) read(off, 512);
  for (const Extent& extent : device_->reads())
    EXPECT_TRUE(extent.len == 512 || extent.end() % 4096 == 0) << extent.off;
  EXPECT_GT(ahead_bytes(), 0u);
  state_->set_read_ahead_bytes(64 << 10);
  const uint64_t before = ahead_bytes();
  for (uint64_t off = kMiB; off < 3 * kMiB; off += 32 << 10) read(off, 4096);
  EXPECT_EQ(ahead_bytes(), before);
}

// Who joined all of it reads for itself, too; and it is not tried over that place again.
TEST_P(ReadAheadTest, WhereItHasFailedNothingIsReadAhead) {
  begin();
  int failures = 0;
  device_->set_fate([&](BlockOp, const Extent& extent) {
    return MemoryDevice::Fate{extent == Extent{8192, 8192} && failures++ == 0 ? EIO : 0, 0};
  });
  begin_one();
  const auto all = submit_read(8192, 8192);
  device_->release_all();
  pcache_request* done[2];
  ASSERT_EQ(queue_->reap(done, 2, 2, -1), 2);
  EXPECT_EQ(all->request.result, 0);
  EXPECT_EQ(all->data, device_bytes(8192, 8192));
  EXPECT_EQ(state_->counters().backing_errors.load(), 0u);
  const uint64_t before = ahead_bytes();
  for (const uint64_t off : {0, 4096}) {
    forget({off, 4096});
    read(off, 4096);
  }
  EXPECT_EQ(ahead_bytes(), before);
  for (const uint64_t off : {kMiB, kMiB + 4096}) read(off, 4096);
  EXPECT_GT(ahead_bytes(), before) << "elsewhere it is";
}

TEST_P(ReadAheadTest, WithoutARequestItIsCachedWhenTheQueueIsReaped) {
  begin();
  begin_one();
  device_->release(0);
  pcache_request* done = nullptr;
  ASSERT_EQ(queue_->reap(&done, 1, 1, -1), 1);
  EXPECT_EQ(mapped(8192, 8192), "ffffffffffffffff");
  device_->release_all();
  EXPECT_EQ(reap(*queue_), 0);
  EXPECT_EQ(mapped(8192, 8192), std::string(16, 'C'));
}

TEST_P(ReadAheadTest, ItIsNotKeptWhileWritesWaitForSpace) {
  RequestOptions options;
  options.segments = 4;
  begin(options);
  begin_one();
  const auto other = make_queue();
  Bytes data(kMiB);
  std::vector<pcache_request> writes(64);
  size_t waits = 0;
  for (uint64_t i = 0; waits == 0; i++) {
    ASSERT_LT(i, writes.size());
    writes[i] = {PCACHE_OP_WRITE, 0, (i % 8 + 16) * kMiB, kMiB, data.data(), 0, 0, nullptr};
    waits += other->submit(&writes[i]) == 0;
  }
  finish(second_.get());
  reap(*queue_);
  EXPECT_EQ(mapped(8192, 8192), "................");
  EXPECT_EQ(other->cancel(), 1u);
  reap(*other);
}

// A read that fails leaves the parts of it to who joined for them, in their own threads' queues,
// which end as soon as their request has.
TEST_P(ReadAheadTest, WhoReadsAloneMayGo) {
  begin();
  device_->set_fate([](BlockOp, const Extent& extent) {
    return MemoryDevice::Fate{extent.len > 4096 ? EIO : 0, 0};
  });
  const auto use = [&](unsigned thread) {
    std::vector<std::byte> data(32 << 10);
    for (int i = 0; i < 500; i++) {
      const auto queue = make_queue(2);
      const uint64_t len = thread == 0 ? data.size() : 4096;
      pcache_request request{PCACHE_OP_READ, 0, thread * 8192, len, data.data(), 0, 0, nullptr};
      if (queue->submit(&request) == 0) {
        pcache_request* done = nullptr;
        ASSERT_EQ(queue->reap(&done, 1, 1, -1), 1);
      }
      if (thread == 0) continue;
      ASSERT_EQ(request.result, 0);
      ASSERT_TRUE(
          std::equal(data.begin(), data.begin() + 4096, device_bytes(request.off, 4096).begin()));
      const Piece piece = lookup({request.off, 4096});
      StripeLock lock(stripes_->of(request.off));
      if (piece.kind == Piece::Kind::kHit) (void)index_->remove({request.off, 4096}, piece.pos);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; i++) threads.emplace_back(use, i);
  for (std::thread& thread : threads) thread.join();
}

// A page never goes back to what it had before.
TEST_P(ReadAheadTest, UnderThreads) {
  begin({.segments = 16});
  constexpr uint64_t kEvery = 5;
  constexpr int kVersions = 3;
  const auto run = [](Queue& queue, uint32_t op, uint64_t off, Bytes& data) {
    pcache_request request{op, 0, off, 4096, data.data(), 0, 0, nullptr};
    if (queue.submit(&request) == 0) {
      pcache_request* done = nullptr;
      ASSERT_EQ(queue.reap(&done, 1, 1, -1), 1);
    }
    ASSERT_EQ(request.result, 0);
  };
  std::array<std::atomic<int>, 8 * kMiB / 4096> versions{};
  const auto read_all = [&](unsigned thread) {
    const auto queue = make_queue(4);
    for (uint64_t off = thread % 2 * kMiB; off < 8 * kMiB; off += 4096) {
      Bytes data(4096);
      const int before = versions[off / 4096].load();
      run(*queue, PCACHE_OP_READ, off, data);
      const int now = int(data[0]);
      if (before == 0 && data == device_bytes(off, 4096)) continue;
      ASSERT_TRUE(before <= now && now <= kVersions && data == Bytes(4096, data[0]))
          << off << ": " << before << " then " << now;
    }
  };
  const auto write_some = [&] {
    const auto queue = make_queue(4);
    for (int version = 1; version <= kVersions; version++)
      for (uint64_t off = 0; off < 8 * kMiB; off += kEvery * 4096) {
        Bytes data(4096, std::byte(version));
        run(*queue, PCACHE_OP_WRITE, off, data);
        versions[off / 4096] = version;
      }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; i++) threads.emplace_back(read_all, i);
  threads.emplace_back(write_some);
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(ahead_bytes(), 0u);
}

}  // namespace
}  // namespace pcache
