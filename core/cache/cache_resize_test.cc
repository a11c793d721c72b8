// SPDX-License-Identifier: GPL-2.0-or-later
// A cache that grows while it is attached.
#include <random>
#include <thread>

#include "cache/cache_for_test.h"
#include "segment/grow.h"
#include "testing/crash_states.h"

namespace pcache {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr uint32_t kOld = 31, kNew = 48, kMost = 300;
constexpr uint64_t kPage = kPageBytes;

class CacheGrows : public CacheTest {
 protected:
  CacheGrows() : CacheTest(device_bytes(kMost)) {}

  static DeviceFrame frame_of(MemoryPmem& memory) {
    auto frame = load_frame(memory.pmem(), Log());
    EXPECT_TRUE(frame.ok()) << frame.error().text;
    return frame.take();
  }
  Result<Cache::Grown> grow_to(uint32_t segments) { return cache_->resize(device_bytes(segments)); }
  void expect_no_resize(uint64_t bytes, int code, const std::string& text) {
    memory_.checkpoint();
    const auto grown = cache_->resize(bytes);
    ASSERT_FALSE(grown.ok());
    EXPECT_EQ(grown.error().code, code) << grown.error().text;
    EXPECT_THAT(grown.error().text, HasSubstr(text));
    EXPECT_EQ(cache_->segments().size(), kOld);
    EXPECT_TRUE(memory_.journal().empty()) << "nothing is stored";
  }
  static SegId segment_of(Cache& cache, uint64_t off) {
    Piece piece;
    Index::Snapshot snapshot;
    EXPECT_EQ(cache.index().lookup({off, kPage}, {&piece, 1}, &snapshot), 1u);
    return piece.kind == Piece::Kind::kHit ? piece.pos.seg : SegId{0};
  }
  // An image whose segments all hold data, a sector each, of the backing device's end: what is
  // appended to it comes to what is new.
  void prepare_full() {
    prepare();
    Image full(kOld);
    std::vector<media::Key> keys;
    for (uint32_t i = 1; i < kOld; i++)
      keys.push_back(
          make_key({kFullFrom + i * kPage, kSectorBytes}, {SegId{i}, 0}, 0, media::kKeyClean));
    const CachePos end = full.kset({}, keys);
    memory_.poke(full.off({}), full.memory().data() + full.off({}).v, end.off);
    memory_.checkpoint();
  }
  static bool has_old_data(Cache& cache) { return segment_of(cache, kFullFrom + kPage).v == 1; }
  Result<std::unique_ptr<Cache>> attach_to(std::unique_ptr<Pmem> pmem) {
    auto backing = std::make_unique<MemoryDevice>(kLogicalBytes);
    backing->set_identity(backing_, unique_backing_);
    return Cache::attach({std::move(pmem), std::move(backing), std::make_unique<SteppedExecutor>()},
                         {});
  }
  static constexpr uint64_t kFullFrom = kLogicalBytes - kOld * kPage;
};

TEST_F(CacheGrows, WhatIsNewIsUsedAndKept) {
  prepare_full();
  attach();
  ASSERT_EQ(cache_->segments().counts().free, 0u);
  const auto grown = grow_to(kNew);
  ASSERT_TRUE(grown.ok()) << grown.error().text;
  EXPECT_EQ(grown.value().before, kOld);
  EXPECT_EQ(grown.value().now, kNew);
  EXPECT_EQ(cache_->segments().size(), kNew);
  EXPECT_EQ(cache_->segments().counts().total, kNew);
  EXPECT_EQ(cache_->segments().counts().free, kNew - kOld);
  EXPECT_EQ(cache_->seg_num(), kNew);
  EXPECT_EQ(cache_->pmem().size_bytes(), device_bytes(kNew));
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("has grown from 31 to 48 segments")));
  ASSERT_EQ(write(0, kPage, 1, PCACHE_REQ_FUA), 0);
  ASSERT_EQ(write(kPage, kPage, 2, PCACHE_REQ_FUA), 0);
  EXPECT_EQ(segment_of(*cache_, 0).v, kOld);
  EXPECT_EQ(value_at(0, kPage), 1);
  EXPECT_EQ(value_at(kPage, kPage), 2);
  EXPECT_TRUE(has_old_data(*cache_));
  ASSERT_TRUE(cache_->drain().ok());
  EXPECT_EQ(device_->peek(kPage, kPage), Bytes(kPage, std::byte{2}));
  ASSERT_EQ(write(kPage, kPage, 3, PCACHE_REQ_FUA), 0);
  detach();
  memory_.set_size(device_bytes(kNew));
  attach();
  EXPECT_EQ(cache_->segments().size(), kNew);
  EXPECT_EQ(value_at(kPage, kPage), 3);
}

// Data goes there at once: the older replica, which serves when the newer one is damaged, must
// know.
TEST_F(CacheGrows, EitherReplicaCountsWhatIsNew) {
  prepare_full();
  attach();
  ASSERT_TRUE(grow_to(kNew).ok());
  ASSERT_EQ(write(0, kPage, 1, PCACHE_REQ_FUA), 0);
  EXPECT_EQ(segment_of(*cache_, 0).v, kOld);
  detach();
  memory_.set_size(device_bytes(kNew));
  for (const uint64_t slot : {0u, 1u}) {
    const MediaOff n_segs{media::kCacheInfoOff + slot * media::kCacheInfoStride + 20};
    memory_.flip_bit(n_segs);
    EXPECT_EQ(frame_of(memory_).info.n_segs, kNew) << "without replica " << slot;
    memory_.flip_bit(n_segs);
  }
}

// Marks of hits, generations, and references of what is new.
TEST_F(CacheGrows, WhatIsNewIsFreedAndUsedAgain) {
  prepare_full();
  memory_.set_recording(false);
  attach();
  ASSERT_TRUE(grow_to(kNew).ok());
  const auto generation = [&] { return cache_->segments().generation(SegId{kOld}); };
  for (int n = 0; n < 3000 && generation() == 0; n++) {
    ASSERT_EQ(write_through(0, kPage, n % 100), 0);
    ASSERT_EQ(write_through(16 << 20, 1 << 20, n % 100), 0);
    ASSERT_EQ(value_at(0, kPage), n % 100);
    ASSERT_EQ(value_at(16 << 20, 1 << 20), n % 100);
  }
  EXPECT_EQ(generation(), 1u);
}

TEST_F(CacheGrows, AWriteThatWaitsForSpaceIsLetIn) {
  attach();
  device_->set_error(EIO);
  Bytes data(1 << 20, std::byte{3});
  pcache_request* done[1];
  pcache_request one{};
  for (uint64_t i = 0;; i++) {
    ASSERT_LT(i, 600u) << "no write has stalled";
    // A barrier after each: what is superseded has to be written, too.
    one = {PCACHE_OP_WRITE, PCACHE_REQ_FUA, i % 64 << 20, data.size(), data.data(), 0, 0, nullptr};
    if (queue_->submit(&one) == 1) continue;
    executor_->advance(std::chrono::minutes(1));
    if (queue_->reap(done, 0, 1, 0) == 0) break;  // the throttle is off, but no segment is free
  }
  ASSERT_TRUE(grow_to(kNew).ok());
  executor_->advance(std::chrono::milliseconds(0));
  ASSERT_EQ(queue_->reap(done, 0, 1, 0), 1) << "not by the clock";
  EXPECT_EQ(one.result, 0);
  device_->set_error(0);
}

TEST_F(CacheGrows, AllThatFollowsFromTheSizeFollows) {
  attach();
  const auto heads = [&] {
    std::set<DataHead*> all;
    for (uint32_t n = 0; n < 2 * kMostHeads; n++) all.insert(&cache_->requests().next_head());
    return all.size();
  };
  EXPECT_EQ(heads(), data_heads(kOld));
  ASSERT_TRUE(grow_to(kMost).ok());
  const SegmentCounts counts = cache_->segments().counts();
  EXPECT_EQ(counts.log_reserve, log_reserve_segments(kMost));
  EXPECT_GT(counts.log_reserve, log_reserve_segments(kOld));
  EXPECT_EQ(heads(), data_heads(kMost));
  EXPECT_EQ(cache_->requests().parts().zeros->most_bytes(), uint64_t{kMost} * media::kSegDataBytes);
}

TEST_F(CacheGrows, InStepsAndInAnyMode) {
  attach();
  for (const uint32_t segments : {kOld + 1, kOld + 2, kNew, kMost / 2, kMost}) {
    const auto grown = grow_to(segments);
    ASSERT_TRUE(grown.ok()) << grown.error().text;
    EXPECT_EQ(frame_of(memory_).info.n_segs, segments);
    ASSERT_TRUE(cache_->set_gc_percent(segments % 80).ok()) << "the record goes on";
    EXPECT_EQ(frame_of(memory_).info.gc_percent, segments % 80);
    EXPECT_EQ(frame_of(memory_).info.n_segs, segments);
  }
}

TEST_F(CacheGrows, WithNothingToDoNothingIsStored) {
  attach();
  memory_.checkpoint();
  for (const uint64_t bytes : {uint64_t{0}, media::kMinDeviceBytes, device_bytes(kOld)}) {
    const auto grown = cache_->resize(bytes);
    ASSERT_TRUE(grown.ok()) << grown.error().text;
    EXPECT_EQ(grown.value().before, kOld);
    EXPECT_EQ(grown.value().now, kOld);
  }
  EXPECT_TRUE(memory_.journal().empty());
}

TEST_F(CacheGrows, WhatIsNotMoreIsRefused) {
  attach();
  expect_no_resize(device_bytes(kOld) - 1, EINVAL, "is not made smaller");
  expect_no_resize(device_bytes(kOld + 1) - 1, EINVAL, "as many as the cache has");
  expect_no_resize(device_bytes(kMost) + kPage, EFBIG, "address space for");
  EXPECT_TRUE(grow_to(kNew).ok());
}

TEST_F(CacheGrows, WithoutRoomItIsRefused) {
  prepare();
  memory_.set_size(device_bytes(kMost));
  attach();
  expect_no_resize(device_bytes(kMost + 1), EFBIG, "ulimit -v");
}

TEST_F(CacheGrows, ReadonlyIsRefused) {
  prepare();
  options_.readonly = true;
  attach();
  expect_no_resize(device_bytes(kNew), EROFS, "readonly=1");
}

TEST_F(CacheGrows, AFrontIsRefused) {
  prepare();
  options_.front = true;
  attach();
  expect_no_resize(device_bytes(kNew), EOPNOTSUPP, "role=front");
}

// As the kernel target leaves it on a device that was made larger, and a resize that was killed.
TEST_F(CacheGrows, ToWhatAnInterruptedResizeHasBegun) {
  prepare();
  DeviceFrame frame = frame_of(memory_);
  ASSERT_TRUE(store_seg_num(memory_.pmem(), frame, kNew).ok());
  memory_.pmem().fence();
  memory_.set_size(device_bytes(kNew + 1));
  attach();
  expect_no_resize(device_bytes(kNew - 1), EINVAL, "interrupted");
  const auto grown = cache_->resize(0);
  ASSERT_TRUE(grown.ok()) << grown.error().text;
  EXPECT_EQ(grown.value().now, kNew + 1);
}

TEST_F(CacheGrows, AMediaErrorLeavesItAsItWas) {
  attach();
  memory_.make_bad(segment_off(kNew - 1));
  const auto grown = grow_to(kNew);
  ASSERT_FALSE(grown.ok());
  EXPECT_EQ(grown.error().code, EIO);
  EXPECT_THAT(grown.error().text, HasSubstr("segment 47: media error"));
  EXPECT_EQ(cache_->segments().size(), kOld);
  ASSERT_TRUE(cache_->set_gc_percent(11).ok());
  EXPECT_EQ(frame_of(memory_).info.n_segs, kOld);
  ASSERT_TRUE(grow_to(kNew - 1).ok()) << "up to there";
  EXPECT_EQ(frame_of(memory_).info.n_segs, kNew - 1);
}

// Hazard grown-before-counted: a segment that cache_info does not count, durably, holds no data.
TEST_F(CacheGrows, NoSegmentIsHandedOutThatIsNotDurablyCounted) {
  attach();
  memory_.checkpoint();
  int stores = 0;
  memory_.set_on_store([&](size_t) {
    stores++;
    ASSERT_EQ(cache_->segments().size(), kOld) << "before store " << stores;
  });
  ASSERT_TRUE(grow_to(kNew).ok());
  memory_.set_on_store(nullptr);
  EXPECT_GE(stores, 10);
  EXPECT_TRUE(all_durable(memory_.journal()));
  EXPECT_EQ(frame_of(memory_).info.n_segs, kNew);
}

TEST_F(CacheGrows, ACrashLeavesTheOldSizeOrTheNew) {
  prepare_full();
  attach();
  memory_.checkpoint();
  ASSERT_TRUE(grow_to(kNew).ok());
  ASSERT_EQ(write(0, kPage, 2, PCACHE_REQ_FUA), 0);
  ASSERT_EQ(segment_of(*cache_, 0).v, kOld);
  std::map<size_t, int> seen;
  int with_data = 0;
  for_each_crash_state(memory_.journal(), {.samples = 8}, [&](auto kept, const std::string& what) {
    const auto image = memory_.crash_image(kept);
    auto left = attach_to(image->make_pmem());
    ASSERT_TRUE(left.ok()) << what << ": " << left.error().text;
    const uint32_t n = left.value()->segments().size();
    ASSERT_TRUE(n == kOld || n == kNew) << what << ": " << n;
    seen[n]++;
    EXPECT_TRUE(has_old_data(*left.value())) << what;
    if (segment_of(*left.value(), 0).v == 0) return;
    with_data++;
    EXPECT_EQ(n, kNew) << what << ": a key of a segment that is not counted";
  });
  EXPECT_GT(seen[kOld], 10);
  EXPECT_GT(seen[kNew], 0);
  EXPECT_GT(with_data, 0);
}

TEST_F(CacheGrows, AResizeThatWasKilledIsEndedByTheNext) {
  prepare_full();
  attach();
  memory_.checkpoint();
  ASSERT_TRUE(grow_to(kOld + 1).ok());
  std::map<size_t, int> seen;
  for (size_t killed_at = 0; killed_at <= memory_.journal().size(); killed_at++) {
    const auto memory = memory_.crash_image({});
    for (size_t i = 0; i < killed_at; i++) {
      const PmemEvent& event = memory_.journal()[i];
      if (event.fence)
        memory->pmem().fence();
      else
        ASSERT_TRUE(memory->pmem().store(event.off, event.bytes.data(), event.bytes.size()));
    }
    memory->kill_process();
    {
      auto next = attach_to(memory->make_pmem());
      ASSERT_TRUE(next.ok()) << next.error().text;
      const auto grown = next.value()->resize(device_bytes(kOld + 1));
      ASSERT_TRUE(grown.ok()) << grown.error().text;
      seen[grown.value().before]++;
      EXPECT_EQ(next.value()->segments().size(), kOld + 1);
    }
    for_each_crash_state(
        memory->journal(), {.samples = 1}, [&](auto kept, const std::string& state) {
          const std::string what = "killed at " + std::to_string(killed_at) + ", then " + state;
          const auto image = memory->crash_image(kept);
          auto left = attach_to(image->make_pmem());
          ASSERT_TRUE(left.ok()) << what << ": " << left.error().text;
          const uint32_t n = left.value()->segments().size();
          EXPECT_TRUE(n == kOld || n == kOld + 1) << what << ": " << n;
          EXPECT_TRUE(has_old_data(*left.value())) << what;
        });
  }
  EXPECT_GT(seen[kOld], 10);
  EXPECT_GT(seen[kOld + 1], 0);
}

// For tsan: threads that read and write, with background work that frees what they fill.
TEST_F(CacheGrows, UnderThreadsThatReadAndWrite) {
  constexpr int kThreads = 3;
  prepare_full();
  memory_.set_recording(false);
  options_.log = lines_.log();
  auto backing = std::make_unique<MemoryDevice>(kLogicalBytes);
  backing->set_identity(backing_, unique_backing_);
  auto cache = Cache::attach({memory_.make_pmem(), std::move(backing),
                              ThreadExecutor::create().take(), ThreadExecutor::create().take()},
                             options_);
  ASSERT_TRUE(cache.ok()) << cache.error().text;
  cache_ = cache.take();
  std::atomic<bool> ends{false};
  std::atomic<int> begun{0};
  std::atomic<uint64_t> in_new{0};
  const auto use = [&](int thread) {
    auto queue = cache_->create_queue(4).take();
    std::mt19937 random(static_cast<unsigned>(thread + 1));
    std::map<uint64_t, std::byte> written;
    Bytes data(16 * kPage);
    const auto run = [&](uint32_t op, uint64_t off) {
      pcache_request request{op, 0, off, data.size(), data.data(), 0, 0, nullptr};
      if (queue->submit(&request) == 0) {
        pcache_request* done[1];
        EXPECT_EQ(queue->reap(done, 1, 1, -1), 1);
      }
      EXPECT_EQ(request.result, 0) << "at " << off;
    };
    const uint64_t places = kFullFrom / data.size() / kThreads;
    for (int n = 0; n < 500 || (!ends && n < 200000); n++) {
      // Its own places: those whose number leaves this rest.
      const uint64_t off =
          (random() % places * kThreads + static_cast<uint64_t>(thread)) * data.size();
      if (n % 2 == 0) {
        const auto value = static_cast<std::byte>(random());
        std::fill(data.begin(), data.end(), value);
        run(PCACHE_OP_WRITE, off);
        written[off] = value;
        if (segment_of(*cache_, off).v >= kOld) in_new++;
      } else {
        run(PCACHE_OP_READ, off);
        const auto at = written.find(off);
        ASSERT_EQ(data, at == written.end() ? MemoryDevice::pattern(off, data.size())
                                            : Bytes(data.size(), at->second));
      }
      if (n == 100 || n == 199999) begun++;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) threads.emplace_back(use, i);
  while (begun < kThreads) std::this_thread::yield();
  for (uint32_t segments = kOld + 1; segments <= 80; segments += 7) {
    const auto grown = grow_to(segments);
    ASSERT_TRUE(grown.ok()) << grown.error().text;
    for (int n = 0; n < 100; n++) std::this_thread::yield();
  }
  while (in_new == 0 && begun < 2 * kThreads) std::this_thread::yield();
  ends = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(in_new, 0u);
  EXPECT_EQ(cache_->segments().size(), 74u);
}

}  // namespace
}  // namespace pcache
