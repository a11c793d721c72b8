// SPDX-License-Identifier: GPL-2.0-or-later
// Backing devices that fail, and drains that end all the same.
#include "background/worker_for_test.h"

namespace pcache {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Hazard retry-without-delay: a device that fails is tried again after a growing delay, nothing
// dirty is given up, and writeback goes on once the device heals.
class FailingDevice : public WorkerTest {
 protected:
  void start() {
    WorkerTest::start(70, {.logical_bytes = 256 << 20});
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
  use_apart(6);
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

// Also when so much is written meanwhile that writeback would wait for want of space.
TEST_F(FailingDevice, IsTriedAgainWhileMuchIsWritten) {
  start();
  for (uint64_t n = 1; n < 12; n++) {
    for (uint64_t i = 0; i < 16; i++) rig_->write(i * 4096, 4096, 1);
    rig_->close();
    advance(kInterval);
    EXPECT_GT(errors(), n);
  }
  device_->set_error(0);
  advance(Worker::kLongestBackoff);
  EXPECT_FALSE(worker_->state().failing);
}

// What needs no device does not say that it works.
TEST_F(FailingDevice, IsNotHealedByWhatIsSuperseded) {
  WorkerTest::start();
  rig_->write(0, 4096, 1);
  rig_->close();
  device_->set_error(BlockOp::kFlush, EIO);
  advance(kInterval);
  ASSERT_EQ(errors(), 1u);
  rig_->write(0, 4096, 2);  // its kset is open
  advance(milliseconds(100));
  EXPECT_EQ(rig_->writeback->counters().superseded_keys.load(), 1u);
  EXPECT_EQ(errors(), 1u);
  EXPECT_TRUE(worker_->state().failing);
  EXPECT_THAT(rig_->lines.lines, ElementsAre(HasSubstr("is tried again")));
  device_->set_error(BlockOp::kFlush, 0);
  advance(kInterval);
  EXPECT_FALSE(worker_->state().failing);
  EXPECT_EQ(rig_->device_value(0), 2);
}

TEST_F(FailingDevice, WakesWorkAtOnceWhenItHasHealed) {
  start();
  device_->set_error(0);
  advance(milliseconds(100));
  ASSERT_EQ(batches(), 1u);
  const milliseconds now = writing_->now();
  use_apart(6);
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

}  // namespace
}  // namespace pcache
