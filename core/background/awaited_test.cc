// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback, and the worker, while writes wait until the backing device has them.
#include "background/worker_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// One write at a time, as the requests' side would tell of it.
class OneWaits final : public DeviceWaits {
 public:
  enum class State { kNone, kArrived, kTaken, kMarked, kPassed, kFailed };
  void arrive() { state = State::kArrived; }

  bool any() const override { return state >= State::kArrived && state <= State::kMarked; }
  bool holds() const override { return always_holds || any(); }
  bool take_arrived() override {
    if (state == State::kArrived) state = State::kTaken;
    return state == State::kTaken;
  }
  bool has_arrived() const override { return state == State::kArrived; }
  void mark(uint64_t ksets) override {
    state = State::kMarked;
    in_ksets = ksets;
  }
  void passed(uint64_t ksets) override {
    most_passed = std::max(most_passed, ksets);
    if (state == State::kMarked && in_ksets <= ksets) state = State::kPassed;
  }
  void fail(int error) override {
    if (any()) state = State::kFailed, failed_with = error;
  }
  void data_lost() override { fail(EIO); }

  bool always_holds = false;
  State state = State::kNone;
  uint64_t in_ksets = 0, most_passed = 0;
  int failed_with = 0;
};

class AwaitedTest : public WorkerTest {
 protected:
  using State = OneWaits::State;
  void begin(RigOptions o = {}) {
    o.writeback.waits = &waits_;
    o.logical_bytes = 256 << 20;
    WorkerTest::start(70, o);
  }
  // A write that is in the log, or on its way, and waits.
  void write_and_wait(uint64_t off, uint64_t len, uint32_t value) {
    ASSERT_TRUE(rig_->write(off, len, value));
    waits_.arrive();
    worker_->device_awaited();
  }
  OneWaits waits_;
};

// No tick, and no timer.
TEST_F(AwaitedTest, ItIsClosedAndWrittenAtOnce) {
  begin();
  write_and_wait(0, 4096, 7);
  run();
  EXPECT_EQ(waits_.state, State::kPassed);
  EXPECT_EQ(rig_->device_value(0), 7);
  EXPECT_EQ(batches(), 1u);
  EXPECT_EQ(rig_->writeback->counters().awaited_bytes.load(), 4096u);
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
}

TEST_F(AwaitedTest, AllThatWasWrittenBeforeIsOnTheDeviceToo) {
  begin();
  rig_->write(16384, 4096, 1);
  rig_->flush();
  rig_->write(8192, 4096, 2);
  rig_->flush();
  write_and_wait(0, 4096, 3);
  run();
  EXPECT_EQ(waits_.state, State::kPassed);
  EXPECT_EQ(rig_->device_value(16384), 1);
  EXPECT_EQ(rig_->device_value(8192), 2);
  EXPECT_EQ(rig_->device_value(0), 3);
}

// Hazard superseded-not-on-device: what supersedes it may never come to the device.
TEST_F(AwaitedTest, WhatIsSupersededIsWritten) {
  begin();
  ASSERT_TRUE(rig_->write(0, 4096, 1));
  rig_->close();
  const LogMark until = rig_->log->mark();
  ASSERT_TRUE(rig_->write(0, 4096, 2));
  waits_.always_holds = true;
  ASSERT_TRUE(rig_->writeback->step(until, rig_->batch()).value());
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->writeback->counters().superseded_keys.load(), 0u);
  waits_.always_holds = false;
  rig_->write(4096, 4096, 1);
  rig_->close();
  const LogMark then = rig_->log->mark();
  rig_->write(4096, 4096, 2);
  ASSERT_TRUE(rig_->writeback->step(then, rig_->batch()).value());
  EXPECT_EQ(rig_->device_value(4096), Rig::kBacking) << "nobody waits";
}

TEST_F(AwaitedTest, NothingIsMovedInPlaceOfIt) {
  begin();
  waits_.always_holds = true;
  ASSERT_TRUE(rig_->write(0, 4096, 1));
  rig_->close();
  ASSERT_TRUE(worker_->move_step().value());
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->writeback->moved().moved_bytes.load(), 0u);
}

TEST_F(AwaitedTest, ADrainPassesItToo) {
  begin();
  ASSERT_TRUE(rig_->write(0, 4096, 1));
  rig_->close();
  waits_.arrive();
  ASSERT_TRUE(waits_.take_arrived());
  waits_.mark(rig_->log->mark().ksets);
  ASSERT_TRUE(worker_->drain().ok());
  EXPECT_EQ(waits_.state, State::kPassed);
}

TEST_F(AwaitedTest, ADeviceThatFailsFailsIt) {
  begin();
  device_->set_error(EIO);
  write_and_wait(0, 4096, 1);
  run();
  EXPECT_EQ(waits_.state, State::kFailed);
  EXPECT_EQ(waits_.failed_with, EIO);
  EXPECT_TRUE(rig_->dirty(0)) << "nothing is lost";
  // The next waits until the device is tried again.
  write_and_wait(4096, 4096, 2);
  run();
  EXPECT_EQ(waits_.state, State::kArrived);
  device_->set_error(0);
  advance(Worker::kFirstBackoff);
  EXPECT_EQ(waits_.state, State::kPassed);
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->device_value(4096), 2);
}

TEST_F(AwaitedTest, AFlushThatFailsFailsIt) {
  begin();
  device_->set_fate([&](BlockOp op, const Extent&) {
    return MemoryDevice::Fate{.error = op == BlockOp::kFlush ? EIO : 0};
  });
  write_and_wait(0, 4096, 1);
  run();
  EXPECT_EQ(waits_.state, State::kFailed);
}

// A kset that cannot be read is never passed, nor what is behind it.
TEST_F(AwaitedTest, ADamagedLogFailsItAndAllThatComeLater) {
  begin();
  const CachePos start = rig_->log->head();
  rig_->write(0, 4096, 1);
  rig_->close();
  image_->memory().flip_bit(rig_->table->media(start + sizeof(media::KsetHeader)));
  for (int i = 0; i < 3; i++) {
    write_and_wait(4096, 4096, 2);
    run();
    EXPECT_EQ(waits_.state, State::kFailed) << i;
    EXPECT_EQ(waits_.failed_with, EIO);
  }
}

// The kset stands behind one of data that is known to be damaged, and kept.
TEST_F(AwaitedTest, ADamagedLogBehindDamagedDataFailsIt) {
  begin({.data_crc = true});
  rig_->write(0, 4096, 1);
  rig_->close();
  damage(0);
  advance(kInterval);
  ASSERT_EQ(rig_->writeback->damaged_extents(), 1u);
  const CachePos next = rig_->log->head();
  rig_->write(8192, 4096, 1);
  rig_->close();
  rig_->write(12288, 4096, 1);
  rig_->close();
  image_->memory().flip_bit(rig_->table->media(next + sizeof(media::KsetHeader)));
  for (int i = 0; i < 3; i++) {
    write_and_wait(16384, 4096, 2);
    advance(milliseconds(200));
    EXPECT_EQ(waits_.state, State::kFailed) << i;
    EXPECT_NE(rig_->device_value(16384), 2);
  }
  EXPECT_TRUE(rig_->writeback->log_damaged());
}

// Nobody can read it any more, and what has superseded it may stay in the cache.
TEST_F(AwaitedTest, ItsOwnDataIsDamagedAndSuperseded) {
  begin({.data_crc = true});
  ASSERT_TRUE(rig_->write(0, 4096, 1));
  waits_.arrive();
  ASSERT_TRUE(waits_.take_arrived());
  rig_->close();
  const LogMark until = rig_->log->mark();
  waits_.mark(until.ksets);
  damage(0);
  ASSERT_TRUE(rig_->write(0, 4096, 2));
  ASSERT_TRUE(rig_->writeback->step(until, rig_->batch()).value());
  EXPECT_EQ(waits_.state, State::kFailed);
  EXPECT_EQ(waits_.failed_with, EIO);
  EXPECT_EQ(rig_->value(0), 2);
}

// Damaged data is appended again, and so is always left. It is not what waits.
TEST_F(AwaitedTest, DamagedDataOfOthersKeepsItNot) {
  begin({.data_crc = true});
  rig_->write(0, 4096, 1);
  rig_->close();
  damage(0);
  advance(kInterval);
  ASSERT_EQ(rig_->writeback->damaged_extents(), 1u);
  for (uint32_t i = 0; i < 3; i++) {
    write_and_wait(8192, 4096, i);
    run();
    EXPECT_EQ(waits_.state, State::kPassed) << i;
    EXPECT_EQ(rig_->device_value(8192), static_cast<int>(i));
  }
}

TEST_F(AwaitedTest, NoRateHoldsItBack) {
  dirty_limits_ = {.bytes_per_second = 64 << 10};
  begin();
  for (uint32_t i = 1; i < 4; i++) {
    write_and_wait(0, 1 << 20, i);
    run();
    EXPECT_EQ(waits_.state, State::kPassed) << i;
  }
}

// A log that is full takes the ksets when reclaim has freed a segment, and no earlier.
TEST_F(AwaitedTest, AFullLogIsWaitedFor) {
  begin({.segments = 4, .log_head = media::kSegDataBytes - 2048});
  while (rig_->write(0, kRangeBytes, 1)) {
  }
  write_and_wait(0, 0, 1);
  run();
  EXPECT_EQ(waits_.state, State::kPassed) << "what is written back makes room";
}

// What was dirty when the mode was set goes to the device at once.
TEST_F(AwaitedTest, AModeThatWaitsIsACleaner) {
  begin();
  rig_->write(0, 4096, 1);
  run();
  EXPECT_TRUE(rig_->dirty(0));
  rig_->mode.set(CacheMode::kWritethrough);
  worker_->mode_changed();
  run();
  EXPECT_FALSE(rig_->dirty(0));
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
}

TEST_F(AwaitedTest, WhatIsWrittenLeavesTheCacheAsTheModeSays) {
  for (const CacheMode mode :
       {CacheMode::kWriteback, CacheMode::kWritethrough, CacheMode::kWritearound,
        CacheMode::kWriteonly, CacheMode::kPassthrough}) {
    begin();
    rig_->mode.set(mode);
    rig_->fill(0, 4096);
    rig_->write(0, 4096, 1);
    rig_->write(512, 512, 2);
    rig_->close();
    rig_->write(1024, 512, 3);  // newer than what is written back
    ASSERT_TRUE(rig_->writeback->step({rig_->log->mark()}, rig_->batch()).value());
    EXPECT_EQ(rig_->mapped(0, 4096), answers_of(mode).keeps_writes ? "CCDCCCCC" : "..D.....")
        << answers_of(mode).name;
    for (uint64_t at = 0; at < 4096; at += 512)
      EXPECT_EQ(rig_->value(at), at == 512 ? 2 : at == 1024 ? 3 : 1);
  }
}

}  // namespace
}  // namespace pcache
