// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/worker.h"

#include "background/worker_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(WorkerTest, OldKsetsAreClosedByTime) {
  start();
  rig_->write(0, 512, 1);
  advance(kFlushDelay / 2);
  EXPECT_EQ(rig_->log->mark().ksets, 0u);
  advance(kFlushDelay / 2);
  EXPECT_EQ(rig_->log->mark().ksets, 1u);
  EXPECT_EQ(batches(), 0u);
}

TEST_F(WorkerTest, WithoutPressureWritebackWorksInItsInterval) {
  start();
  rig_->write(0, 4096, 1);
  rig_->close();
  run();
  advance(kInterval - milliseconds(10));
  EXPECT_EQ(batches(), 0u);
  advance(milliseconds(10));
  EXPECT_EQ(batches(), 1u);
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(reclaimed(), 0u) << "there is room";
  EXPECT_EQ(rig_->mapped(0, 512), "C");
}

// Hazard nobody-wakes: no request has to wait for a tick.
TEST_F(WorkerTest, PressureWakesBothAtOnce) {
  start(70, {.logical_bytes = 256 << 20});
  use_in_small_ksets(6);  // of 8: 75 %
  run();
  EXPECT_EQ(main_->now(), milliseconds(0));
  EXPECT_GT(batches(), 0u);
  EXPECT_GT(reclaimed(), 0u);
  EXPECT_LT(used(), 6u);
}

TEST_F(WorkerTest, OpenKsetsAreClosedUnderPressure) {
  start(70, {.logical_bytes = 256 << 20});
  use_apart(6);
  EXPECT_EQ(rig_->log->mark().ksets, 0u);
  EXPECT_GT(rig_->stripes->open_keys(), 0u);
  run();
  EXPECT_EQ(rig_->stripes->open_keys(), 0u);
  EXPECT_LT(used(), 6u);
}

// What is superseded needs no device, and the later it is passed the more of it there is.
TEST_F(WorkerTest, WhatIsSupersededIsLeftUntilSpaceIsShort) {
  move_segments_ = 2;
  start(50);
  use(5);  // of 8; free are 3: the log's one and two
  EXPECT_EQ(batches(), 0u);
  const uint64_t free = rig_->table->counts().free;
  run();
  EXPECT_GT(rig_->table->counts().free, free);
  EXPECT_EQ(rig_->writeback->counters().written_bytes.load(), 0u);
  EXPECT_TRUE(rig_->dirty(kRangeBytes));
  use(4);
  run();
  EXPECT_EQ(used(), 4u) << "half is in use, and nothing is done";
}

TEST_F(WorkerTest, ReclaimStopsBelowGcPercent) {
  start(63, {.logical_bytes = 256 << 20});  // 5 of 8 segments are it
  use_in_small_ksets(6);
  run();
  EXPECT_EQ(used(), 4u);
  EXPECT_GT(rig_->index->mapped_bytes(), media::kSegmentBytes) << "no more than it must";
}

// What was found quiet does not hold for what is written later.
TEST_F(WorkerTest, ABurstAfterAQuietTimeIsLeft) {
  start(90);
  rig_->write(0, 4096, 1);
  rig_->close();
  advance(kInterval);
  EXPECT_EQ(batches(), 1u);
  use(4);
  rig_->flush();
  advance(kInterval);
  EXPECT_EQ(batches(), 1u);
  worker_->set_gc_percent(89);  // a wake
  worker_->set_dirty_limits({});
  run();
  EXPECT_EQ(batches(), 1u);
  advance(kInterval);
  EXPECT_GT(batches(), 1u);
}

// What an attach has found was not written in the interval.
TEST_F(WorkerTest, WhatIsFoundDirtyIsWrittenInTheFirstInterval) {
  start(90);
  use(4);
  rig_->flush();
  attach_again(90);
  advance(kInterval);
  EXPECT_GT(batches(), 0u);
}

TEST_F(WorkerTest, BelowGcPercentNothingIsReclaimed) {
  start(90);
  use(6);
  rig_->flush();
  const uint64_t mapped = rig_->index->mapped_bytes();
  run();
  EXPECT_EQ(batches(), 0u);
  advance(kInterval);
  EXPECT_EQ(batches(), 0u) << "much was written in it";
  advance(kInterval);
  EXPECT_GT(batches(), 0u);
  EXPECT_EQ(rig_->index->mapped_bytes(), mapped);
}

// 70 % of 8 segments are 5, by the kernel target's rule: 5.6 is rounded down.
TEST_F(WorkerTest, ReclaimStartsAtAWholeNumberOfSegments) {
  start(70);
  use(4);
  rig_->flush();
  rig_->write_back();
  run();
  EXPECT_EQ(reclaimed(), 0u);
  use(5);
  run();
  EXPECT_GT(reclaimed(), 0u);
}

TEST_F(WorkerTest, ASmallerGcPercentWorksAtOnce) {
  start(90);
  use(5);
  rig_->flush();
  rig_->write_back();
  run();
  EXPECT_EQ(reclaimed(), 0u);
  worker_->set_gc_percent(30);
  EXPECT_EQ(worker_->gc_percent(), 30u);
  run();
  EXPECT_GT(reclaimed(), 0u);
  EXPECT_LE(used(), 2u);
}

// Reclaim works at 10 %, but writeback is not hurried until half of the segments are in use.
TEST_F(WorkerTest, ASmallGcPercentDoesNotHurryWriteback) {
  start(10);
  use(3);
  rig_->flush();
  run();
  EXPECT_EQ(batches(), 0u);
  advance(2 * kInterval);
  EXPECT_GT(batches(), 0u);
  EXPECT_GT(reclaimed(), 0u) << "woken when dirty_tail moved";
  EXPECT_EQ(rig_->index->mapped_bytes(), 0u);
}

TEST_F(WorkerTest, GcPercentZeroKeepsNothing) {
  start(0);
  rig_->write(0, 4096, 1);
  rig_->flush();
  advance(kInterval);
  EXPECT_EQ(rig_->index->mapped_bytes(), 0u);
  EXPECT_EQ(rig_->value(0), 1);
}

TEST_F(WorkerTest, ARequestThatWaitsForcesRoom) {
  start(90);
  rig_->write(0, 4096, 1);  // nothing near any threshold
  on_retry_ = [this] {
    if (rig_->tails.key_tail() != CachePos{}) waiting_ = false;
  };
  waiting_ = true;
  worker_->request_waits();
  run();
  EXPECT_FALSE(waiting_);
  EXPECT_EQ(main_->now(), milliseconds(0));
  EXPECT_EQ(batches(), 1u);
  EXPECT_EQ(reclaimed(), 1u);
}

// A long discard, which has no more room in the index. What is clean stays.
TEST_F(WorkerTest, ARequestThatWaitsForWritebackGetsIt) {
  start();
  rig_->fill(0, kRangeBytes);
  rig_->zeros(16 << 20, 32 << 20);
  rig_->write(60 << 20, 4096, 7);
  waiting_ = for_writeback_ = true;
  on_retry_ = [this] { waiting_ = rig_->index->dirty_bytes() > 0; };
  worker_->request_waits();
  run();
  EXPECT_FALSE(waiting_);
  EXPECT_EQ(rig_->index->dirty_bytes(), 0u);
  EXPECT_EQ(reclaimed(), 0u);
  EXPECT_EQ(rig_->mapped(0, 512), "C");
  const int retries = retries_;
  run();
  EXPECT_EQ(retries_, retries) << "nobody wakes for ever";
}

TEST_F(WorkerTest, WhoWaitsForWritebackWaitsForAFailingDevice) {
  start();
  rig_->zeros(16 << 20, 32 << 20);
  waiting_ = for_writeback_ = true;
  on_retry_ = [this] { waiting_ = rig_->index->dirty_bytes() > 0; };
  device_->set_error(EIO);
  worker_->request_waits();
  run();
  EXPECT_TRUE(waiting_);
  const int retries = retries_;
  run();
  EXPECT_EQ(retries_, retries) << "nobody wakes for ever";
  device_->set_error(0);
  advance(milliseconds(20000));
  EXPECT_FALSE(waiting_);
}

TEST_F(WorkerTest, WaitingRequestsAreTriedAsSpaceComesFree) {
  start(90);
  use(8);
  EXPECT_FALSE(rig_->write(0, 512, 2)) << "full";
  int entered = 0;
  on_retry_ = [this, &entered] {
    while (waiting_ && rig_->write(0, kRangeBytes, 2))
      if (++entered == 8) waiting_ = false;
  };
  waiting_ = true;
  worker_->request_waits();
  run();
  EXPECT_FALSE(waiting_);
  EXPECT_EQ(main_->now(), milliseconds(0));
  EXPECT_EQ(rig_->value(0), 2);
}

// All of the cache was read, and could stay; then writes would wait until all of it was copied.
TEST_F(WorkerTest, WhoWaitsHasSpaceBeforeAllIsKept) {
  RigOptions o;
  o.policy = policy::PolicyKind::kSecondChance;
  o.kept_bytes = 256 << 20;
  start(90, o);
  constexpr uint64_t kBytes = 48 << 20;
  for (uint64_t off = 0; off < kBytes; off += 65536) ASSERT_TRUE(rig_->fill(off, 65536));
  rig_->flush();
  rig_->write_back();
  for (uint64_t off = 0; off < kBytes; off += 65536) rig_->hit(off);
  const uint32_t free = rig_->table->counts().free;
  on_retry_ = [&] { waiting_ = waiting_ && rig_->table->counts().free <= free; };
  waiting_ = true;
  worker_->request_waits();
  run();
  EXPECT_FALSE(waiting_);
  EXPECT_LT(rig_->reclaim->kept()->moved_bytes.load(), kBytes * 3 / 4);
}

// Nothing that is moved would make room: the device is to get what is dirty.
TEST_F(WorkerTest, WhereReclaimStandsStillNothingIsLeftToIt) {
  move_segments_ = 8;
  start(70);
  const auto write_pages = [this](uint64_t pages, uint32_t value) {
    for (uint64_t page = 0; page < pages; page++) rig_->write(page * 4096, 4096, value);
    rig_->close();
  };
  write_pages(5, 1);
  write_pages(10, 2);
  write_pages(5, 3);
  // What is superseded is passed first, so reclaim has something to do.
  (void)rig_->writeback->step(rig_->log->mark(), {.bytes = 1, .live = LiveData::kLeaveAll});
  ASSERT_NE(rig_->tails.key_tail(), rig_->tails.dirty_tail());
  (void)rig_->writeback->step(rig_->log->mark(), {.bytes = 1 << 20, .live = LiveData::kLeave});
  ASSERT_TRUE(rig_->writeback->moving_pays());
  image_->memory().make_bad(MediaOff{media::kCacheCtrlOff});
  waiting_ = true;
  worker_->request_waits();
  run();
  EXPECT_EQ(failed_, EIO);
  advance(kInterval);
  EXPECT_EQ(rig_->device_value(9 * 4096), 2);
  EXPECT_EQ(rig_->device_value(0), 3);
}

TEST_F(WorkerTest, ASegmentThatComesFreeLetsRequestsGoOn) {
  start(90);
  run();
  waiting_ = false;
  retries_ = 0;
  const SegId seg = *rig_->table->take_for_data();
  rig_->table->finish_filling(seg, 0);
  run();
  EXPECT_EQ(retries_, 0) << "nobody waits";
  const SegId other = *rig_->table->take_for_data();
  waiting_ = true;
  rig_->table->finish_filling(other, 0);
  main_->advance(milliseconds(0));
  EXPECT_GT(retries_, 0);
}

TEST_F(WorkerTest, OneExecutorForBothWillDo) {
  BackgroundTest::start({.logical_bytes = 256 << 20});
  SteppedExecutor executor;
  Worker::Options w;
  w.waiting_requests = [] { return 0; };
  w.retry_requests = [] {};
  w.set_pace = [](bool) {};
  w.fail_requests = [](int) {};
  w.fail_requests = [](int) {};
  Worker worker(*rig_->parts, *rig_->writeback, *rig_->reclaim, executor, executor, w);
  rig_->table->set_events({[&](SegId) { worker.space_taken(); }, [&] { worker.space_freed(); }});
  worker.start();
  use_apart(6);
  executor.advance(milliseconds(0));
  EXPECT_LT(used(), 6u);
  worker.stop();
  rig_->table->set_events({});
}

TEST_F(WorkerTest, MakeRoomWithoutExecutors) {
  start(90, {.logical_bytes = 256 << 20});
  use_in_small_ksets(8);
  worker_->stop();
  worker_->make_room([this] { return used() <= 5; });
  EXPECT_EQ(used(), 5u);
  EXPECT_GT(rig_->index->mapped_bytes(), 0u) << "no more than was asked for";
}

TEST_F(WorkerTest, MakeRoomEndsWhenNothingCanBeDone) {
  start(90);
  use(8);
  rig_->flush();
  worker_->stop();
  worker_->make_room([] { return false; });
  EXPECT_EQ(rig_->index->mapped_bytes(), 0u);
  rig_->write(0, 4096, 1);
  rig_->flush();
  device_->set_error(EIO);
  worker_->make_room([] { return false; });
  EXPECT_TRUE(rig_->dirty(0));
}

TEST_F(WorkerTest, NothingRunsAfterStop) {
  start();
  use(6);
  worker_->stop();
  const int retries = retries_;
  worker_->space_taken();
  worker_->space_freed();
  worker_->request_waits();
  worker_->set_gc_percent(0);
  advance(2 * kInterval);
  EXPECT_EQ(batches(), 0u);
  EXPECT_EQ(reclaimed(), 0u);
  EXPECT_EQ(retries_, retries);
  EXPECT_GT(rig_->stripes->open_keys(), 0u);
  worker_->stop();
}

TEST_F(WorkerTest, AFullCacheIsRelievedRightAfterAttach) {
  start(90);
  use(7);
  rig_->flush();
  worker_->stop();
  worker_.reset();
  rig_->table->set_events({});
  attach();
  Worker::Options w;
  w.waiting_requests = [] { return 0; };
  w.retry_requests = [] {};
  w.set_pace = [](bool) {};
  w.fail_requests = [](int) {};
  w.fail_requests = [](int) {};
  SteppedExecutor executor;
  Worker worker(*rig_->parts, *rig_->writeback, *rig_->reclaim, executor, executor, w);
  worker.start();
  executor.advance(milliseconds(0));
  EXPECT_GT(batches(), 0u);
  EXPECT_LT(used(), 6u);
  worker.stop();
}

TEST_F(WorkerTest, ClosingThatFailsIsToldOnce) {
  // The log's only segment is full, and data has taken the others.
  start(90, {.segments = 3, .log_reserve = 0, .log_head = media::kSegDataBytes - 64});
  rig_->write(0, 512, 1);
  const auto other = rig_->table->take_for_log();
  ASSERT_TRUE(other);
  ASSERT_EQ(rig_->table->counts().free, 0u);
  advance(3 * kFlushDelay);
  EXPECT_THAT(rig_->lines.lines, ElementsAre(HasSubstr("closing ksets by time: cache full")));
  EXPECT_EQ(rig_->value(0), 1);
}

TEST_F(WorkerTest, ADamagedLogIsToldOnce) {
  start();
  for (uint32_t i = 0; i < 3; i++) {
    rig_->write(i * 4096, 4096, i);
    rig_->flush();
  }
  rig_->write_back();
  image_->memory().flip_bit(image_->off({SegId{0}, 64}) + sizeof(media::KsetHeader));
  waiting_ = true;
  for (int i = 0; i < 3; i++) {
    worker_->request_waits();
    run();
  }
  EXPECT_THAT(rig_->lines.lines, ElementsAre(HasSubstr("reclaim stands still: log at segment")));
  EXPECT_EQ(failed_, EIO) << "they would wait for ever";
}

// As long as retry_requests() takes, the other thread may write back all there is. What it passed
// comes free although nothing is left to be written.
TEST_F(WorkerTest, NoRequestFailsForBadMediaWhileSpaceIsToComeFree) {
  start(90);
  for (uint32_t i = 0; i < 4; i++) rig_->write(i * 4096, 4096, i + 1);
  rig_->close();
  rig_->table->retire(SegId{7});
  int retries = 0;
  on_retry_ = [&] {
    if (++retries == 2) rig_->write_back();  // reclaim has just come to dirty_tail
    if (reclaimed() > 0) waiting_ = false;   // they find the space
  };
  waiting_ = true;
  worker_->request_waits();
  run();
  EXPECT_EQ(failed_, 0);
  EXPECT_GT(reclaimed(), 0u);
  EXPECT_FALSE(waiting_);
  EXPECT_EQ(main_->now(), milliseconds(0));
}

// Pace: writes are let in as fast as writeback goes along, before the cache is full.
TEST_F(WorkerTest, PaceIsOnWhileSpaceIsLow) {
  throttle_segments_ = 2;
  start(90);
  use(4);
  EXPECT_FALSE(paced_);
  use(5);  // free are 3: the log's one and two
  EXPECT_TRUE(paced_);
  run();
  EXPECT_FALSE(paced_);
  EXPECT_LT(used(), 5u);
  EXPECT_EQ(main_->now(), milliseconds(0));
}

}  // namespace
}  // namespace pcache
