// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/worker.h"

#include <random>

#include "background/background_for_test.h"

namespace pcache {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr milliseconds kFlushDelay{1000}, kInterval{5000};

class WorkerTest : public BackgroundTest {
 protected:
  void start(uint32_t gc_percent = 70, RigOptions o = {}) {
    stop();
    BackgroundTest::start(o);
    main_ = std::make_unique<SteppedExecutor>();
    writing_ = std::make_unique<SteppedExecutor>();
    Worker::Options w;
    w.flush_delay = kFlushDelay;
    w.writeback_interval = kInterval;
    w.gc_percent = gc_percent;
    w.waiting_requests = [this] { return waiting_; };
    w.retry_requests = [this] {
      retries_++;
      if (on_retry_) on_retry_();
    };
    w.set_pace = [this](bool on) { paced_ = on; };
    w.fail_requests = [this](int error) { failed_with_.push_back(error); };
    w.fail_requests = [this](int error) { failed_ = error; };
    w.limits = {.throttle_segments = throttle_segments_,
                .hurried_batch_bytes = o.batch_bytes,
                .idle_batch_bytes = 64 << 20};
    worker_ = std::make_unique<Worker>(*rig_->parts, *rig_->writeback, *rig_->reclaim, *main_,
                                       *writing_, w);
    rig_->table->set_events(
        {[this] { worker_->space_taken(); }, [this] { worker_->space_freed(); }});
    worker_->start();
  }
  void stop() {
    if (!worker_) return;
    worker_->stop();
    rig_->table->set_events({});
    worker_.reset();
  }
  void TearDown() override {
    stop();
    BackgroundTest::TearDown();
  }
  // What is due now, on both executors, until nothing is: no time passes.
  void run() {
    for (int i = 0; i < 20; i++) {
      main_->advance(milliseconds(0));
      writing_->advance(milliseconds(0));
    }
  }
  void advance(milliseconds by) {
    for (milliseconds at{0}; at < by; at += milliseconds(10)) {
      main_->advance(milliseconds(10));
      writing_->advance(milliseconds(10));
    }
    run();
  }
  uint32_t used() const {
    const SegmentCounts counts = rig_->table->counts();
    return counts.total - counts.free;
  }
  // Takes data segments until `n` are in use, or as many as can be; little of it is to be written.
  void use(uint32_t n) {
    while (used() < n && rig_->write(kRangeBytes, kRangeBytes, 1)) {
    }
  }
  // The same, in ksets of their own and all to be written.
  void use_in_small_ksets(uint32_t n) {
    for (uint64_t off = 0; used() < n && rig_->write(off, 128 << 10, 1); off += 128 << 10)
      rig_->close();
  }
  uint64_t batches() const { return rig_->writeback->counters().batches.load(); }
  uint64_t errors() const { return rig_->writeback->counters().errors.load(); }
  uint64_t reclaimed() const { return rig_->reclaim->counters().ksets.load(); }

  bool waiting_ = false;
  int retries_ = 0;
  std::function<void()> on_retry_;
  std::vector<int> failed_with_;
  bool paced_ = false;
  int failed_ = 0;  // the requests that wait, with this errno
  uint32_t throttle_segments_ = 0;
  std::unique_ptr<SteppedExecutor> main_, writing_;
  std::unique_ptr<Worker> worker_;
};

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
  start();
  use(6);  // of 8: 75 %
  run();
  EXPECT_EQ(main_->now(), milliseconds(0));
  EXPECT_GT(batches(), 0u);
  EXPECT_GT(reclaimed(), 0u);
  EXPECT_LT(used(), 6u);
}

TEST_F(WorkerTest, OpenKsetsAreClosedUnderPressure) {
  start();
  use(6);
  EXPECT_EQ(rig_->log->mark().ksets, 0u);
  EXPECT_GT(rig_->stripes->open_keys(), 0u);
  run();
  EXPECT_EQ(rig_->stripes->open_keys(), 0u);
  EXPECT_LT(used(), 6u);
}

TEST_F(WorkerTest, ReclaimStopsBelowGcPercent) {
  start(63, {.logical_bytes = 256 << 20});  // 5 of 8 segments are it
  use_in_small_ksets(6);
  run();
  EXPECT_EQ(used(), 4u);
  EXPECT_GT(rig_->index->mapped_bytes(), media::kSegmentBytes) << "no more than it must";
}

TEST_F(WorkerTest, BelowGcPercentNothingIsReclaimed) {
  start(90);
  use(6);
  rig_->flush();
  const uint64_t mapped = rig_->index->mapped_bytes();
  run();
  EXPECT_EQ(batches(), 0u);
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
  advance(kInterval);
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
  BackgroundTest::start();
  SteppedExecutor executor;
  Worker::Options w;
  w.waiting_requests = [] { return 0; };
  w.retry_requests = [] {};
  w.set_pace = [](bool) {};
  w.fail_requests = [](int) {};
  w.fail_requests = [](int) {};
  Worker worker(*rig_->parts, *rig_->writeback, *rig_->reclaim, executor, executor, w);
  rig_->table->set_events({[&] { worker.space_taken(); }, [&] { worker.space_freed(); }});
  worker.start();
  use(6);
  executor.advance(milliseconds(0));
  EXPECT_LT(used(), 6u);
  worker.stop();
  rig_->table->set_events({});
}

// Hazard retry-without-delay: a device that fails is tried again after a growing delay, nothing
// dirty is given up, and writeback goes on once the device heals.
class FailingDevice : public WorkerTest {
 protected:
  void start() {
    WorkerTest::start();
    rig_->write(0, 4096, 1);
    rig_->close();
    device_->set_error(EIO);
    advance(kInterval);
    ASSERT_EQ(errors(), 1u);
  }
};

TEST_F(FailingDevice, IsTriedAgainLaterAndLater) {
  start();
  EXPECT_TRUE(worker_->state().failing);
  milliseconds backoff{100};
  for (uint64_t n = 1; n < 12; n++) {
    EXPECT_EQ(worker_->state().backoff, backoff);
    advance(backoff - milliseconds(10));
    EXPECT_EQ(errors(), n) << "not before its time";
    advance(milliseconds(10));
    EXPECT_EQ(errors(), n + 1);
    backoff = std::min(2 * backoff, milliseconds(10000));
  }
  EXPECT_EQ(backoff, Worker::kLongestBackoff);
  EXPECT_TRUE(rig_->dirty(0));
}

// As long as it writes something it is tried again soon.
TEST_F(FailingDevice, IsTriedSoonWhileItWritesSomething) {
  start();
  advance(milliseconds(100));
  EXPECT_EQ(worker_->state().backoff, milliseconds(200));
  device_->set_error(0);
  int left = 1;
  device_->set_fate([&](BlockOp op, const Extent&) {
    return MemoryDevice::Fate{.error = op == BlockOp::kFlush && left-- > 0 ? EIO : 0};
  });
  advance(milliseconds(200));
  EXPECT_EQ(errors(), 3u);
  EXPECT_EQ(worker_->state().backoff, Worker::kFirstBackoff);
  advance(milliseconds(100));
  EXPECT_EQ(batches(), 1u);
  EXPECT_FALSE(worker_->state().failing);
}

TEST_F(FailingDevice, NoWakeShortensThat) {
  start();
  use(6);
  waiting_ = true;
  for (int i = 0; i < 9; i++) {
    worker_->request_waits();
    worker_->set_gc_percent(10);
    worker_->space_taken();
    advance(milliseconds(10));
  }
  EXPECT_EQ(errors(), 1u);
  advance(milliseconds(10));
  EXPECT_EQ(errors(), 2u);
}

// The wake runs the task too early, and must not use up what brings it back in time.
TEST_F(FailingDevice, NoWakeProlongsThat) {
  start();
  waiting_ = true;
  worker_->request_waits();
  run();
  EXPECT_EQ(errors(), 1u);
  waiting_ = false;
  advance(milliseconds(100));
  EXPECT_EQ(errors(), 2u);
}

TEST_F(FailingDevice, Heals) {
  start();
  EXPECT_THAT(worker_->state().last_error, HasSubstr("memory device: writing back failed"));
  advance(milliseconds(100));
  device_->set_error(0);
  advance(milliseconds(200));
  EXPECT_EQ(batches(), 1u);
  EXPECT_FALSE(worker_->state().failing);
  EXPECT_EQ(worker_->state().backoff, milliseconds(0));
  EXPECT_THAT(worker_->state().last_error, HasSubstr("writing back failed")) << "still told";
  EXPECT_THAT(rig_->lines.lines, ElementsAre(HasSubstr("is tried again"), HasSubstr("works again")))
      << "one line for each change";
  EXPECT_EQ(rig_->device_value(0), 1);

  device_->set_error(BlockOp::kFlush, EIO);
  rig_->write(0, 4096, 2);
  rig_->close();
  advance(kInterval);
  EXPECT_TRUE(worker_->state().failing);
  EXPECT_EQ(worker_->state().backoff, Worker::kFirstBackoff) << "from the start again";
}

TEST_F(FailingDevice, WakesWorkAtOnceWhenItHasHealed) {
  start();
  device_->set_error(0);
  advance(milliseconds(100));
  ASSERT_EQ(batches(), 1u);
  const milliseconds now = writing_->now();
  use(6);
  run();
  EXPECT_GT(batches(), 1u);
  EXPECT_EQ(writing_->now(), now);
}

TEST_F(WorkerTest, DrainWritesAllBack) {
  start(70, {.batch_bytes = 4096});
  for (uint32_t i = 0; i < 10; i++) {
    rig_->write(i * 4096, 4096, i);
    rig_->flush();
  }
  rig_->write(40960, 512, 77);  // open
  EXPECT_TRUE(worker_->drain().ok());
  EXPECT_EQ(batches(), 11u);
  EXPECT_EQ(rig_->device_value(40960), 77);
  EXPECT_EQ(rig_->tails.dirty_tail(), rig_->log->head());
  EXPECT_FALSE(rig_->dirty(40960));
  EXPECT_TRUE(worker_->drain().ok()) << "nothing left";
}

// Three writes of a hundred fail, each time others.
TEST_F(WorkerTest, DrainOfADeviceThatFailsSomeWrites) {
  for (unsigned seed = 1; seed <= 28; seed++) {
    start(90, {.batch_bytes = 1 << 20});
    for (uint64_t i = 0; i < 2000; i++) rig_->write(i * 8192, 4096, static_cast<uint32_t>(i));
    std::minstd_rand random(seed);
    uint64_t failures = 0;
    device_->set_fate([&](BlockOp op, const Extent&) {
      const bool fails = op == BlockOp::kWrite && random() % 100 < 3;
      failures += fails;
      return MemoryDevice::Fate{.error = fails ? EIO : 0};
    });
    const Status drained = worker_->drain();
    ASSERT_TRUE(drained.ok()) << drained.error().text;
    EXPECT_GT(failures, 0u);
    EXPECT_EQ(rig_->writeback->counters().failed_writes.load(), failures);
    EXPECT_EQ(rig_->writeback->counters().writes.load(), 2000u) << "each once";
    EXPECT_EQ(rig_->tails.dirty_tail(), rig_->log->head());
    EXPECT_THAT(rig_->lines.lines, ElementsAre(HasSubstr("succeeded when they were repeated")));
    for (uint64_t i = 0; i < 2000; i++) ASSERT_EQ(rig_->device_value(i * 8192), int(i));
  }
}

// More bad places in a row than a device may have that is worth to be asked on.
TEST_F(WorkerTest, DrainWritesWhatItCanAndSaysWhatIsLeft) {
  start(90);
  for (uint64_t i = 0; i < 300; i++) rig_->write(i * 8192, 4096, static_cast<uint32_t>(i));
  device_->set_fate([&](BlockOp, const Extent& extent) {
    return MemoryDevice::Fate{.error = extent.off >= 10 * 8192 && extent.off < 40 * 8192 ? EIO : 0};
  });
  const Status drained = worker_->drain();
  ASSERT_FALSE(drained.ok());
  EXPECT_EQ(drained.error().code, EIO);
  EXPECT_THAT(drained.error().text,
              AllOf(HasSubstr("failed at 81920+4096, 122880 bytes of its batch are left"),
                    HasSubstr("1228800 bytes of dirty data are left in the cache")));
  for (uint64_t i = 0; i < 300; i++)
    if (i < 10 || i >= 40) {
      ASSERT_EQ(rig_->device_value(i * 8192), int(i)) << i;
    }
  device_->set_fate(nullptr);
  EXPECT_TRUE(worker_->drain().ok());
  EXPECT_EQ(rig_->writeback->counters().writes.load(), 300u);
}

TEST_F(WorkerTest, DrainSaysWhatTheDeviceSays) {
  start();
  rig_->write(0, 4096, 1);
  device_->set_error(ENOSPC);
  const Status drained = worker_->drain();
  ASSERT_FALSE(drained.ok());
  EXPECT_EQ(drained.error().code, ENOSPC);
  device_->set_error(0);
  EXPECT_TRUE(worker_->drain().ok());
}

TEST_F(WorkerTest, DrainNamesDamagedDataAndWritesTheRest) {
  start(70, {.data_crc = true});
  rig_->write(0, 4096, 1);
  rig_->write(4096, 4096, 2);
  rig_->flush();
  damage(0);
  for (int i = 0; i < 2; i++) {
    const Status drained = worker_->drain();
    ASSERT_FALSE(drained.ok());
    EXPECT_EQ(drained.error().code, EIO);
    EXPECT_THAT(drained.error().text, HasSubstr("1 extents of dirty data are damaged"));
  }
  EXPECT_EQ(rig_->device_value(4096), 2);
  EXPECT_TRUE(rig_->dirty(0));
}

TEST_F(WorkerTest, DrainWorksAfterStop) {
  start();
  rig_->write(0, 4096, 1);
  worker_->stop();
  EXPECT_TRUE(worker_->drain().ok());
  EXPECT_EQ(rig_->device_value(0), 1);
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
