// SPDX-License-Identifier: GPL-2.0-or-later
// How much dirty data a worker lets stand, and how fast it writes it back.
#include "background/worker_for_test.h"

namespace pcache {
namespace {

class DirtyLimitsTest : public WorkerTest {
 protected:
  static constexpr uint64_t kMiB = 1 << 20;

  // Of 8 segments, 128 MiB.
  void start(const DirtyLimits& limits) {
    dirty_limits_ = limits;
    WorkerTest::start(90, {.logical_bytes = 256 << 20, .batch_bytes = 1 << 20});
  }
  // Each MiB in a kset of its own.
  void write_mib(uint64_t n) {
    for (uint64_t i = 0; i < n; i++, at_ += kMiB) {
      ASSERT_TRUE(rig_->write(at_, kMiB, 1));
      rig_->close();
    }
  }
  uint64_t dirty_mib() const { return rig_->index->dirty_bytes() / kMiB; }
  const Writeback::Counters& counters() const { return rig_->writeback->counters(); }

  uint64_t at_ = 0;
};

TEST_F(DirtyLimitsTest, AreKept) {
  start({25, 12});
  write_mib(31);
  run();
  EXPECT_EQ(dirty_mib(), 31u);
  write_mib(20);  // it is seen when a segment is taken
  run();
  EXPECT_LE(dirty_mib(), 128u * 12 / 100);
  EXPECT_GE(dirty_mib(), 128u * 12 / 100 - 2) << "and no further";
  EXPECT_EQ(main_->now(), milliseconds(0)) << "and at once";
  EXPECT_EQ(counters().limit_bytes.load(), counters().written_bytes.load());
  EXPECT_GT(counters().limit_bytes.load(), 0u);
  EXPECT_FALSE(worker_->cleaning());
}

TEST_F(DirtyLimitsTest, ACleanerLeavesNothingDirty) {
  start({0, 0});
  rig_->write(0, 4096, 1);  // its kset is open
  advance(kFlushDelay / 2);
  EXPECT_EQ(dirty_mib(), 0u);
  EXPECT_FALSE(rig_->dirty(0));
  EXPECT_EQ(rig_->mapped(0, 512), "C");
  EXPECT_EQ(rig_->device_value(0), 1);
}

TEST_F(DirtyLimitsTest, ChangeWhileItRuns) {
  start({});
  write_mib(40);
  run();
  EXPECT_EQ(dirty_mib(), 40u);
  worker_->set_dirty_limits({10, 5, 0});
  run();
  EXPECT_LE(dirty_mib(), 6u);
  EXPECT_EQ(worker_->dirty_limits().high_percent, 10u);
}

TEST_F(DirtyLimitsTest, TheRateIsKept) {
  start({0, 0, 4 * kMiB});
  write_mib(60);
  run();
  EXPECT_GE(dirty_mib(), 60u - 2 * 4) << "a batch is of a second";
  const uint64_t before = dirty_mib();
  advance(milliseconds(10000));
  const uint64_t written = before - dirty_mib();
  EXPECT_GE(written, 40u - 4);
  EXPECT_LE(written, 40u + 4);
}

TEST_F(DirtyLimitsTest, AHigherRateHoldsAtOnce) {
  start({0, 0, 64 << 10});
  write_mib(8);
  run();
  EXPECT_GE(dirty_mib(), 6u);
  advance(milliseconds(1000));
  EXPECT_GE(dirty_mib(), 6u);
  worker_->set_dirty_limits({0, 0, 0});
  run();
  EXPECT_EQ(dirty_mib(), 0u);
}

TEST_F(DirtyLimitsTest, TheRateIsKeptWhenThereIsTime) {
  start({100, 90, 4 * kMiB});
  write_mib(32);
  advance(2 * kInterval);
  EXPECT_GT(counters().idle_bytes.load(), 0u);
  EXPECT_GT(dirty_mib(), 0u);
  advance(milliseconds(8000));
  EXPECT_EQ(dirty_mib(), 0u);
  EXPECT_EQ(counters().idle_bytes.load(), 32 * kMiB);
}

TEST_F(DirtyLimitsTest, WantOfSpaceAndADrainKnowNoRate) {
  start({100, 90, 64 << 10});
  write_mib(8);
  EXPECT_TRUE(worker_->drain().ok());
  EXPECT_EQ(dirty_mib(), 0u);
  EXPECT_EQ(counters().drain_bytes.load(), 8 * kMiB);
  write_mib(80);
  run();
  EXPECT_GT(counters().space_bytes.load(), 0u);
  EXPECT_EQ(main_->now(), milliseconds(0));
}

// What cannot be read stays dirty: the worker must not try for ever.
TEST_F(DirtyLimitsTest, ACleanerEndsAtDamagedData) {
  dirty_limits_ = {0, 0, 0};
  WorkerTest::start(90, {.data_crc = true, .logical_bytes = 256 << 20});
  rig_->write(0, 4096, 1);
  rig_->write(8192, 4096, 2);
  rig_->close();
  damage(0);
  for (int i = 0; i < 10; i++) advance(kFlushDelay);
  EXPECT_TRUE(rig_->dirty(0));
  EXPECT_FALSE(rig_->dirty(8192));
  EXPECT_LT(batches(), 10u);
}

}  // namespace
}  // namespace pcache
