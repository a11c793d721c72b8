// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/read_ahead.h"

#include <gmock/gmock.h>

#include <numeric>
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
  read(6 * kMiB - 32768, 4096);
  read(6 * kMiB - 28672, 8192);
  EXPECT_EQ(device_->reads().back().end(), 6 * kMiB - 12288) << "what was there already";
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
  EXPECT_LT(ahead_bytes(), 128u << 10) << "it is part of the run";
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

TEST_P(ReadAheadTest, UnderThreads) {
  begin({.segments = 16});
  const auto use = [&](unsigned thread) {
    const auto queue = make_queue(4);
    std::vector<std::byte> data(4096);
    for (uint64_t off = thread % 2 * kMiB; off < 8 * kMiB; off += 4096) {
      if (thread == 3 && off / 4096 % 5 != 0) continue;
      if (thread == 3) data = device_bytes(off, 4096);
      pcache_request request{uint32_t{thread == 3 ? PCACHE_OP_WRITE : PCACHE_OP_READ},
                             0,
                             off,
                             4096,
                             data.data(),
                             0,
                             0,
                             nullptr};
      if (queue->submit(&request) == 0) {
        pcache_request* done = nullptr;
        ASSERT_EQ(queue->reap(&done, 1, 1, -1), 1);
      }
      ASSERT_EQ(request.result, 0);
      ASSERT_EQ(data, device_bytes(off, 4096)) << off;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; i++) threads.emplace_back(use, i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(ahead_bytes(), 0u);
}

}  // namespace
}  // namespace pcache
