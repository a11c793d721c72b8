// SPDX-License-Identifier: GPL-2.0-or-later
// A front and a backend over one memory, in one thread: what each leaves for the other to see.
#include <functional>

#include "backend/two_sides_for_test.h"
#include "keylog/log_cursor.h"

namespace pcache {
namespace {

using testing::HasSubstr;

TEST_F(TwoSidesTest, TheBackendWritesAndTheFrontFollows) {
  start_front();
  start_backend();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(write(8192, 4096, 2), 0);
  ASSERT_EQ(flush(), 0);
  EXPECT_EQ(on_disk(0, 4096), -1);
  EXPECT_EQ(cache_->dirty().live_bytes, 8192u);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
  EXPECT_EQ(on_disk(8192, 4096), 2);
  executor_->advance(milliseconds(5000));
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  EXPECT_EQ(cache_->dirty().ksets, 0u);
  EXPECT_EQ(value_at(0, 4096), 1);
  EXPECT_EQ(value_at(4096, 4096), -1);
}

TEST_F(TwoSidesTest, WhatIsNotInTheLogYetIsNotSeen) {
  start_front();
  start_backend();
  ASSERT_EQ(write(0, 4096, 1), 0);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), -1);
  executor_->advance(milliseconds(2000));  // an open kset is closed
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
}

// Four times what the cache holds: each segment has had several generations since the backend saw
// it first.
TEST_F(TwoSidesTest, SegmentsAreUsedAgainWhileTheBackendRuns) {
  start_front();
  start_backend();
  constexpr uint64_t kPiece = 1 << 20;
  const uint64_t rounds = 4 * media::kMinDeviceBytes / kLogicalBytes;
  for (uint64_t round = 1; round <= rounds; round++) {
    for (uint64_t off = 0; off < kLogicalBytes; off += kPiece) {
      ASSERT_EQ(write(off, kPiece, static_cast<int>(round)), 0);
      if (off % (8 * kPiece) != 0) continue;
      ASSERT_EQ(flush(), 0);
      write_back();
      executor_->advance(milliseconds(1));
    }
    ASSERT_EQ(flush(), 0);
    write_back();
    for (uint64_t off = 0; off < kLogicalBytes; off += kPiece)
      ASSERT_EQ(on_disk(off, kPiece), static_cast<int>(round)) << off;
    executor_->advance(milliseconds(5000));
  }
  EXPECT_GT(cache_->reclaim().counters().ksets.load(), 0u);
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
}

TEST_F(TwoSidesTest, AFullCacheWaitsForTheBackend) {
  start_front();
  constexpr uint64_t kPiece = 1 << 20;
  Bytes data(kPiece, std::byte{7});
  pcache_request waiting{};
  for (uint64_t n = 0;; n++) {
    ASSERT_LT(n, 2 * media::kMinDeviceBytes / kPiece);
    waiting = {PCACHE_OP_WRITE, 0, n * kPiece % kLogicalBytes, kPiece, data.data(), 0, 0, nullptr};
    if (queue_->submit(&waiting) == 0) break;
  }
  pcache_request* done[1];
  for (int i = 0; i < 20; i++) executor_->advance(milliseconds(1000));
  EXPECT_EQ(queue_->reap(done, 0, 1, 0), 0);
  start_backend();
  int looks = 0;
  while (queue_->reap(done, 0, 1, 0) == 0) {
    write_back();
    executor_->advance(milliseconds(1));
    ASSERT_LT(looks++, 1000);
  }
  EXPECT_EQ(waiting.result, 0);
}

TEST_F(TwoSidesTest, EitherSideGoesOnWhereTheOtherHasEnded) {
  start_front();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  detach();
  start_backend();
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
  backend_.reset();
  start_front();
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  EXPECT_EQ(value_at(0, 4096), 1);
  ASSERT_EQ(write(0, 4096, 2), 0);
  ASSERT_EQ(flush(), 0);
  start_backend();
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 2);
}

// Its batch is written again.
TEST_F(TwoSidesTest, AFlushThatFailsPassesNothing) {
  start_front();
  start_backend();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  disk_.set_error(BlockOp::kFlush, EIO);
  memory_.forbid_stores();
  const auto failed = backend_->step();
  memory_.allow_stores();
  ASSERT_FALSE(failed.ok());
  EXPECT_THAT(failed.error().text, HasSubstr("its flush failed"));
  const Bytes lost = MemoryDevice::pattern(0, 4096);
  disk_.poke(0, lost);
  disk_.set_error(0);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
}

TEST_F(TwoSidesTest, ADiskThatFailsIsTriedAgain) {
  start_front();
  start_backend();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  disk_.set_error(BlockOp::kWrite, ENOSPC);
  ASSERT_FALSE(backend_->step().ok());
  executor_->advance(milliseconds(5000));
  EXPECT_EQ(cache_->dirty().live_bytes, 4096u);
  disk_.set_error(0);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
}

// The disk alone is then a state between two flushes at any moment. What no barrier divides is one
// batch, and one flush of the disk.
TEST_F(TwoSidesTest, StrictOrderPassesAnEpochAtATime) {
  start_front();
  start_backend(true);
  for (int n = 1; n <= 3; n++) {
    // Of several ksets: their stripes are committed one by one.
    for (uint64_t i = 0; i < 3; i++) {
      ASSERT_EQ(write(i * kRangeBytes + static_cast<uint64_t>(n) * 4096, 4096, n), 0);
      executor_->advance(milliseconds(2000));
    }
    ASSERT_EQ(flush(), 0);
  }
  for (int n = 1; n <= 3; n++) {
    const uint64_t flushes = backend_->counters().flushes, ksets = backend_->counters().ksets;
    const auto moved = backend_->step();
    ASSERT_TRUE(moved.ok() && moved.value() == Backend::Step::kMoved);
    EXPECT_EQ(backend_->counters().flushes, flushes + 1);
    EXPECT_EQ(backend_->counters().ksets, ksets + 3);
    for (int other = 1; other <= 3; other++)
      for (uint64_t i = 0; i < 3; i++)
        EXPECT_EQ(on_disk(i * kRangeBytes + static_cast<uint64_t>(other) * 4096, 4096),
                  other <= n ? other : -1);
  }
}

TEST_F(TwoSidesTest, TheFrontLeavesTheBackendsRecordsAlone) {
  const auto records = [this] {
    return std::vector<std::byte>(memory_.data(), memory_.data() + media::kCacheCtrlOff);
  };
  const auto before = records();
  start_front();
  ASSERT_EQ(write(0, 4096, 1), 0);
  EXPECT_EQ(cache_->set_gc_percent(10).error().code, EOPNOTSUPP);
  EXPECT_EQ(cache_->set("cache_mode", "writethrough").error().code, EOPNOTSUPP);
  EXPECT_EQ(cache_->drain().error().code, EOPNOTSUPP);
  detach();
  EXPECT_EQ(records(), before);
}

// What has a valid crc and is no place behind the last one counts for nothing: an older dirty_tail,
// or one that the log does not lead to.
TEST_F(TwoSidesTest, ADirtyTailThatGoesBackCleansNothing) {
  start_front();
  start_backend();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  write_back();
  executor_->advance(milliseconds(5000));
  ASSERT_EQ(cache_->dirty().live_bytes, 0u);
  ASSERT_EQ(write(4096, 4096, 2), 0);
  ASSERT_EQ(flush(), 0);
  auto pmem = memory_.make_pmem();
  const Bounds bounds{31, kLogicalBytes};
  for (const uint32_t off : {0u, 8u, 4096u}) {
    Tails other;
    ASSERT_TRUE(other.load(*pmem, bounds).ok());
    const CachePos before = other.dirty_tail();
    ASSERT_TRUE(other.set_dirty_tail(*pmem, {SegId{before.seg.v}, off}).ok());
    executor_->advance(milliseconds(20000));
    EXPECT_EQ(cache_->dirty().live_bytes, 4096u) << off;
    EXPECT_EQ(value_at(4096, 4096), 2);
    ASSERT_TRUE(other.set_dirty_tail(*pmem, before).ok());
  }
  start_backend();  // the one before knows nothing of what has been stored here
  write_back();
  for (int i = 0; i < 10; i++) executor_->advance(milliseconds(5000));
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  EXPECT_EQ(on_disk(4096, 4096), 2);
}

// A replica that looks torn for a moment leaves the older one.
TEST_F(TwoSidesTest, ATornDirtyTailCleansNothing) {
  start_front();
  start_backend();
  for (int n = 1; n <= 2; n++) {
    ASSERT_EQ(write(0, 4096, n), 0);
    ASSERT_EQ(flush(), 0);
    write_back();
    executor_->advance(milliseconds(5000));
  }
  ASSERT_EQ(write(4096, 4096, 3), 0);
  ASSERT_EQ(flush(), 0);
  Replicated<media::TailPos> record(dirty_tail_place());
  ASSERT_TRUE(record.load(*memory_.make_pmem()).has_value());
  memory_.flip_bit(record.slot(record.newest()));
  executor_->advance(milliseconds(20000));
  EXPECT_EQ(cache_->dirty().live_bytes, 4096u);
  memory_.flip_bit(record.slot(record.newest()));
  write_back();
  for (int i = 0; i < 10; i++) executor_->advance(milliseconds(5000));
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
}

TEST_F(TwoSidesTest, AWriteThatWaitsForTheDeviceIsAcknowledgedByTheBackend) {
  options_.front = false;
  options_.mode = CacheMode::kWritethrough;
  attach();
  detach();
  options_.front = true;
  options_.mode.reset();
  start_front();
  start_backend();
  Bytes data(4096, std::byte{5});
  pcache_request request{PCACHE_OP_WRITE, 0, 0, 4096, data.data(), 0, 0, nullptr};
  ASSERT_EQ(queue_->submit(&request), 0);
  pcache_request* done[1];
  executor_->advance(milliseconds(100));
  EXPECT_EQ(queue_->reap(done, 0, 1, 0), 0);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 5);
  executor_->advance(milliseconds(100));
  EXPECT_EQ(queue_->reap(done, 0, 1, 0), 1);
  EXPECT_EQ(request.result, 0);
}

// A kset in front of others is damaged: what is behind it is left, and said.
TEST_F(TwoSidesTest, ADamagedLogIsNotTakenForItsEnd) {
  start_front();
  for (int n = 1; n <= 4; n++) {
    ASSERT_EQ(write(static_cast<uint64_t>(n) * 4096, 4096, n), 0);
    ASSERT_EQ(flush(), 0);
  }
  start_backend();
  auto pmem = memory_.make_pmem();
  SegmentTable segments(*pmem, {load_frame(*pmem, Log()).value().chain});
  Tails tails;
  ASSERT_TRUE(tails.load(*pmem, {31, kLogicalBytes}).ok());
  LogCursor cursor(*pmem, segments, tails.dirty_tail());
  ASSERT_TRUE(cursor.next().ok());
  for (const uint64_t at : {0u, 8u, 40u}) {  // its crc, its magic, its key
    const MediaOff place = segments.media(cursor.pos()) + at;
    memory_.flip_bit(place);
    Result<Backend::Step> step = backend_->step();
    for (int looks = 0; looks < 5000 && step; looks++) {
      EXPECT_NE(step.value(), Backend::Step::kNothing) << at;
      step = backend_->step();
    }
    ASSERT_FALSE(step.ok()) << at;
    EXPECT_EQ(step.error().code, EUCLEAN) << step.error().text;
    memory_.flip_bit(place);
  }
  EXPECT_EQ(on_disk(8192, 4096), -1);
  write_back();
  EXPECT_EQ(on_disk(4 * 4096, 4096), 4);
}

// Its crc is right, and its numbers are not.
TEST_F(TwoSidesTest, AKeyThatLeadsOutsideIsRefused) {
  start_front();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  detach();
  auto pmem = memory_.make_pmem();
  SegmentTable segments(*pmem, {load_frame(*pmem, Log()).value().chain});
  Tails tails;
  ASSERT_TRUE(tails.load(*pmem, {31, kLogicalBytes}).ok());
  const MediaOff place = segments.media(tails.dirty_tail());
  const auto good = memory_.peek<OneKeyKset>(place);
  for (const auto& change : std::vector<std::function<void(media::Key&)>>{
           [](auto& key) { key.cache_seg_id = 31; },
           [](auto& key) { key.cache_seg_id = 0xfffffff0; },
           [](auto& key) { key.cache_seg_off = 0xfff00000; }, [](auto& key) { key.len = 8 << 20; },
           [](auto& key) { key.off = kLogicalBytes; }, [](auto& key) { key.off = 100; },
           [](auto& key) { key.len = 0; }, [](auto& key) { key.cache_seg_off = 16770000; }}) {
    start_backend();
    OneKeyKset bad = good;
    change(bad.key);
    seal_kset(&bad.header, {&bad.key, 1});
    memory_.poke(place, bad);
    Result<Backend::Step> step = backend_->step();
    for (int looks = 0; looks < 5000 && step; looks++) step = backend_->step();
    ASSERT_FALSE(step.ok());
    EXPECT_EQ(step.error().code, EUCLEAN) << step.error().text;
    EXPECT_EQ(on_disk(0, 4096), -1);
    memory_.poke(place, good);
    backend_.reset();
  }
}

class TwoSidesCrcTest : public TwoSidesTest {
 protected:
  TwoSidesCrcTest() : TwoSidesTest(true) {}
};

TEST_F(TwoSidesCrcTest, DamagedDataIsNeitherWrittenNorPassed) {
  start_front();
  start_backend();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  const std::vector<std::byte> data(64, std::byte{1});
  const auto* end = memory_.data() + memory_.size_bytes();
  const auto* at = std::search(memory_.data(), end, data.begin(), data.end());
  ASSERT_NE(at, end);
  memory_.flip_bit(MediaOff{static_cast<uint64_t>(at - memory_.data())});
  const auto failed = backend_->step();
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, EIO);
  EXPECT_THAT(failed.error().text, HasSubstr("range 0+4096 is damaged"));
  EXPECT_EQ(on_disk(0, 4096), -1);
  executor_->advance(milliseconds(5000));
  EXPECT_EQ(cache_->dirty().live_bytes, 4096u);
}

}  // namespace
}  // namespace pcache
