// SPDX-License-Identifier: GPL-2.0-or-later
// What a front says need not be written: superseded data, and live data that it has moved on.
#include <gmock/gmock.h>

#include "backend/two_sides_for_test.h"
#include "keylog/log_cursor.h"

namespace pcache {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class PassingTest : public TwoSidesTest {
 protected:
  static constexpr uint64_t kElsewhere = 5 * kRangeBytes;

  void close() { executor_->advance(milliseconds(2000)); }
  // The front moves what it can, and appends another kset, which says so.
  void move() {
    const auto moved = cache_->move_step();
    ASSERT_TRUE(moved.ok()) << moved.error().text;
    ASSERT_EQ(write(kElsewhere, 4096, 77), 0);
    close();
  }
  bool pass() {
    const auto passed = backend_->pass();
    EXPECT_TRUE(passed.ok()) << passed.error().text;
    return passed && passed.value();
  }
};

TEST_F(PassingTest, WhatIsSupersededOrMovedIsNotWritten) {
  start_front();
  start_backend(true);
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(write(8192, 4096, 9), 0);
  close();
  ASSERT_EQ(write(0, 4096, 2), 0);
  close();
  move();
  EXPECT_TRUE(pass());
  EXPECT_FALSE(pass()) << "once";
  EXPECT_EQ(backend_->counters().passed_ksets, 2u);
  EXPECT_EQ(on_disk(0, 4096), -1);
  EXPECT_EQ(on_disk(8192, 4096), -1);
  executor_->advance(milliseconds(5000));  // the front follows
  EXPECT_EQ(cache_->dirty().live_bytes, 3 * 4096u) << "it is dirty still";
  write_back();
  EXPECT_EQ(backend_->counters().written_bytes, 3 * 4096u);
  EXPECT_EQ(on_disk(0, 4096), 2);
  EXPECT_EQ(on_disk(8192, 4096), 9);
  executor_->advance(milliseconds(5000));
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  EXPECT_EQ(value_at(0, 4096), 2);
  EXPECT_EQ(value_at(8192, 4096), 9);
}

// Neither a front that is gone, nor a backend that starts later, changes what the log says.
TEST_F(PassingTest, ItStandsInTheLog) {
  start_front();
  ASSERT_EQ(write(0, 4096, 1), 0);
  close();
  move();
  detach();
  start_backend(true);
  EXPECT_TRUE(pass());
  start_front();
  EXPECT_EQ(value_at(0, 4096), 1);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
}

TEST_F(PassingTest, BehindABarrierItIsWritten) {
  start_front();
  start_backend(true);
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  ASSERT_EQ(write(0, 4096, 2), 0);
  close();
  move();
  EXPECT_FALSE(pass());
  ASSERT_TRUE(backend_->step().ok());
  EXPECT_EQ(on_disk(0, 4096), 1);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 2);
}

// A barrier may come between what was stated and the kset that says it: what is passed, and what
// supersedes it, are of the epoch in front of that, which is written first.
TEST_F(PassingTest, ABarrierMayComeBeforeItIsSaid) {
  start_front();
  start_backend(true);
  ASSERT_EQ(write(0, 4096, 1), 0);
  close();
  ASSERT_TRUE(cache_->move_step().ok());
  ASSERT_EQ(flush(), 0);
  ASSERT_EQ(write(0, 4096, 2), 0);
  close();
  EXPECT_TRUE(pass());
  ASSERT_TRUE(backend_->step().ok());
  EXPECT_EQ(on_disk(0, 4096), 1);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 2);
}

// Hazard passed-before-moved: all that the kset needs stands in front of it.
TEST_F(PassingTest, WhatSupersedesIsInTheLogFirst) {
  start_front();
  ASSERT_EQ(write(0, 4096, 1), 0);
  close();
  ASSERT_EQ(write(0, 4096, 2), 0);  // in an open kset
  ASSERT_TRUE(cache_->move_step().ok());
  for (uint64_t i = 0; i < media::kKeysPerKset; i++)
    ASSERT_EQ(write(kElsewhere + i * 8192, 4096, 77), 0);
  start_backend();
  EXPECT_TRUE(pass());
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 2);
}

// Hazard stale-pass-taken: a position that the log has passed is that of another kset by now.
TEST_F(PassingTest, APositionInFrontOfDirtyTailIsNone) {
  start_front();
  ASSERT_EQ(write(0, 4096, 1), 0);
  close();
  move();
  auto pmem = memory_.make_pmem();
  const SegmentTable segments(*pmem, {load_frame(*pmem, Log()).value().chain});
  Tails tails;
  ASSERT_TRUE(tails.load(*pmem, {31, kLogicalBytes}).ok());
  LogCursor cursor(*pmem, segments, tails.dirty_tail());
  for (;;) {
    const auto item = cursor.next();
    ASSERT_TRUE(item.ok() && item.value().kind == LogItem::Kind::kKeys);
    if (!item.value().passes) continue;
    ASSERT_TRUE(tails.set_dirty_tail(*pmem, item.value().pos).ok());
    break;
  }
  start_backend();
  EXPECT_FALSE(pass());
  EXPECT_EQ(backend_->dirty_tail(), tails.dirty_tail());
  write_back();
  EXPECT_EQ(on_disk(kElsewhere, 4096), 77);
}

// Hazard set-back-tail-passed: what dirty_tail has passed since is to be written again.
TEST_F(PassingTest, ADirtyTailThatWasSetBackIsNotPassed) {
  start_front();
  start_backend();
  const CachePos first = backend_->dirty_tail();
  ASSERT_EQ(write(0, 4096, 1), 0);
  close();
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
  executor_->advance(milliseconds(5000));  // the front follows
  ASSERT_EQ(write(8192, 4096, 2), 0);
  close();
  move();
  detach();
  backend_.reset();
  disk_.poke(0, MemoryDevice::pattern(0, 4096));  // an older copy of it
  auto pmem = memory_.make_pmem();
  Tails tails;
  ASSERT_TRUE(tails.load(*pmem, {31, kLogicalBytes}).ok());
  ASSERT_FALSE(tails.dirty_tail() == first);
  ASSERT_TRUE(tails.set_dirty_tail(*pmem, first).ok());
  start_backend();
  EXPECT_FALSE(pass());
  EXPECT_EQ(backend_->counters().disbelieved, 1u);
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("dirty_tail was set back")));
  EXPECT_EQ(backend_->dirty_tail(), first);
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
  EXPECT_EQ(on_disk(8192, 4096), 2);
}

// Where it was said, and what a backend has written meanwhile, does not matter.
TEST_F(PassingTest, ADirtyTailThatHasMovedOnIsPassedFrom) {
  start_front();
  start_backend();
  for (uint64_t i = 0; i < 4; i++) {
    ASSERT_EQ(write(i * 8192, 4096, 1), 0);
    close();
  }
  move();
  auto pmem = memory_.make_pmem();
  const SegmentTable segments(*pmem, {load_frame(*pmem, Log()).value().chain});
  Tails tails;
  ASSERT_TRUE(tails.load(*pmem, {31, kLogicalBytes}).ok());
  LogCursor cursor(*pmem, segments, tails.dirty_tail());
  ASSERT_TRUE(cursor.next().ok());
  ASSERT_TRUE(tails.set_dirty_tail(*pmem, cursor.pos()).ok());
  start_backend();
  EXPECT_TRUE(pass());
  EXPECT_EQ(backend_->counters().passed_ksets, 3u);
}

// As an older version leaves it: without a number of ksets, and without a check.
TEST_F(PassingTest, WhatHasNoCheckIsNotBelieved) {
  start_front();
  ASSERT_EQ(write(0, 4096, 1), 0);
  close();
  move();
  auto pmem = memory_.make_pmem();
  const SegmentTable segments(*pmem, {load_frame(*pmem, Log()).value().chain});
  Tails tails;
  ASSERT_TRUE(tails.load(*pmem, {31, kLogicalBytes}).ok());
  LogCursor cursor(*pmem, segments, tails.dirty_tail());
  for (;;) {
    const auto item = cursor.next();
    ASSERT_TRUE(item.ok() && item.value().kind == LogItem::Kind::kKeys);
    if (!item.value().passes) continue;
    struct {
      media::KsetHeader header;
      media::Key keys[media::kKeysPerKset];
    } kset;
    const size_t bytes = kset_bytes(static_cast<uint32_t>(item.value().keys.size()));
    const MediaOff at = segments.media(item.value().pos);
    ASSERT_TRUE(pmem->load(&kset, at, bytes));
    seal_kset(&kset.header, {kset.keys, kset.header.key_num},
              kset.header.flags & ((uint64_t{1} << media::kKsetPassKsetsShift) - 1));
    ASSERT_TRUE(pmem->store(at, &kset, bytes));
    break;
  }
  start_backend();
  EXPECT_FALSE(pass());
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 1);
}

// A write of these waits until the disk has it.
TEST_F(PassingTest, InAModeThatWaitsForTheDiskAllIsWritten) {
  options_.front = false;
  options_.mode = CacheMode::kWritethrough;
  attach();
  detach();
  options_.front = true;
  options_.mode.reset();
  start_front();
  start_backend();
  Bytes data(4096, std::byte{5});
  pcache_request first{PCACHE_OP_WRITE, 0, 0, 4096, data.data(), 0, 0, nullptr}, second = first;
  ASSERT_EQ(queue_->submit(&first), 0);
  executor_->advance(milliseconds(100));
  ASSERT_TRUE(cache_->move_step().ok());
  ASSERT_EQ(queue_->submit(&second), 0);
  executor_->advance(milliseconds(100));
  EXPECT_FALSE(pass());
  write_back();
  EXPECT_EQ(on_disk(0, 4096), 5);
}

// As much as six times what the cache holds, in an eighth of it: the disk gets next to nothing.
TEST_F(PassingTest, AHotSetIsNotWritten) {
  start_front();
  start_backend(true);
  constexpr uint64_t kPiece = 64 << 10;
  uint64_t written = 0;
  for (int round = 1; round <= 48; round++)
    for (uint64_t off = 0; off < kLogicalBytes; off += kPiece, written += kPiece) {
      Bytes data(kPiece, std::byte(round));
      pcache_request request{PCACHE_OP_WRITE, 0, off, kPiece, data.data(), 0, 0, nullptr};
      if (queue_->submit(&request) == 1) continue;
      pcache_request* done[1];
      for (int looks = 0; queue_->reap(done, 0, 1, 0) == 0; looks++) {
        ASSERT_LT(looks, 1000);
        executor_->advance(milliseconds(1));
        (void)pass();
      }
      ASSERT_EQ(request.result, 0);
    }
  EXPECT_EQ(backend_->counters().written_bytes, 0u);
  EXPECT_GT(backend_->counters().passed_ksets, 100u);
  ASSERT_EQ(flush(), 0);
  write_back();
  for (uint64_t off = 0; off < kLogicalBytes; off += kPiece) ASSERT_EQ(on_disk(off, kPiece), 48);
  EXPECT_LT(backend_->counters().written_bytes, written / 4);
}

class PassingOfLargeBlocks : public TwoSidesTest {
 protected:
  static constexpr uint32_t kBlock = 16 << 10;
  PassingOfLargeBlocks() : TwoSidesTest(false, kBlock) {}
};

// A key of part of a block could not be written back, and the next attach would be refused.
TEST_F(PassingOfLargeBlocks, EachKeyIsOfWholeBlocks) {
  start_front();
  start_backend(true);
  constexpr uint64_t kPiece = 3 * kBlock;  // fits into no segment without a rest
  int n = 0;
  for (int round = 0; round < 4; round++)
    for (uint64_t off = 0; off + kPiece <= kLogicalBytes; off += kPiece, n++) {
      Bytes data(kPiece, std::byte(round + 1));
      pcache_request request{PCACHE_OP_WRITE, 0, off, kPiece, data.data(), 0, 0, nullptr};
      if (queue_->submit(&request) == 1) continue;
      pcache_request* done[1];
      for (int looks = 0; queue_->reap(done, 0, 1, 0) == 0; looks++) {
        ASSERT_LT(looks, 1000);
        executor_->advance(milliseconds(1));
        if (n % 64 == 0)
          (void)backend_->step();
        else
          (void)backend_->pass();
      }
      ASSERT_EQ(request.result, 0);
    }
  ASSERT_EQ(flush(), 0);
  queue_.reset();
  cache_.reset();
  backend_.reset();
  start_front();
  start_backend(true);
  write_back();
  EXPECT_EQ(on_disk(0, kPiece), 4);
}

}  // namespace
}  // namespace pcache
