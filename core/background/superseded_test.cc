// SPDX-License-Identifier: GPL-2.0-or-later
// Dirty data that later keys supersede is passed and not written.
#include "background/superseded.h"

#include "background/random_work_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SupersededTest : public WritebackTest {
 protected:
  // A kset of its own.
  void write_kset(uint64_t off, uint32_t value, uint64_t len = 4096) {
    rig_->write(off, len, value);
    rig_->close();
  }
};

TEST_F(SupersededTest, IsNotWritten) {
  start();
  write_kset(0, 1);
  const LogMark until = rig_->log->mark();
  write_kset(0, 2);
  EXPECT_TRUE(rig_->writeback->step(until, rig_->batch()).value());
  EXPECT_THAT(done(), IsEmpty());
  EXPECT_EQ(dirty_tail(), until.pos);
  EXPECT_EQ(counters().superseded_keys, 1u);
  EXPECT_EQ(counters().superseded_bytes, 4096u);
  EXPECT_EQ(rig_->writeback->passed_dirty_bytes(), 4096u);
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+8", "flush"));
  EXPECT_EQ(rig_->device_value(0), 2);
}

// Hazard superseder-not-durable.
TEST_F(SupersededTest, IsPassedWhenWhatSupersedesItIsDurable) {
  start();
  write_kset(0, 1);
  rig_->write(0, 4096, 2);  // its kset is open
  image_->memory().checkpoint();
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), IsEmpty());
  EXPECT_EQ(rig_->stripes->open_keys(), 0u);
  int states = 0;
  for_each_crash({}, [&](Rig& rig) {
    states++;
    const int value = rig.value(0);
    ASSERT_TRUE(value == 1 || value == 2) << value;
    ASSERT_TRUE(rig.dirty(0));
    if (rig.tails.dirty_tail() == dirty_tail()) {
      ASSERT_EQ(value, 2);
    }
  });
  EXPECT_GT(states, 1);
  attach();
  EXPECT_EQ(rig_->value(0), 2);
}

TEST_F(SupersededTest, WhatIsMadeDurableGivesABiasBack) {
  if (!process_barrier_available()) GTEST_SKIP() << "membarrier(2) is not permitted here";
  start();
  write_kset(0, 1);
  const BiasedMutex& mu = written_until_biased(0);
  ASSERT_GT(rig_->stripes->open_keys(), 0u);
  EXPECT_TRUE(step().value());
  EXPECT_EQ(rig_->stripes->open_keys(), 0u);
  EXPECT_TRUE(mu.is_biased());
}

TEST_F(SupersededTest, AKeyOfWhichASectorIsLeftIsWritten) {
  start();
  write_kset(0, 1);
  const LogMark until = rig_->log->mark();
  write_kset(512, 2, 3584);
  EXPECT_TRUE(rig_->writeback->step(until, rig_->batch()).value());
  EXPECT_THAT(done(), ElementsAre("0+8", "flush"));
  EXPECT_EQ(counters().superseded_keys, 0u);
}

TEST_F(SupersededTest, SeveralKeysSupersedeOne) {
  start();
  write_kset(0, 1, 8192);
  const LogMark until = rig_->log->mark();
  write_kset(4096, 2);
  write_kset(0, 3, 512);
  write_kset(512, 4, 3584);
  EXPECT_TRUE(rig_->writeback->step(until, rig_->batch()).value());
  EXPECT_THAT(done(), IsEmpty());
  EXPECT_EQ(counters().superseded_keys, 1u);
}

// Hazard superseded-across-a-barrier.
TEST_F(SupersededTest, AcrossABarrierItIsWritten) {
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  write_kset(0, 2);
  EXPECT_EQ(rig_->write_back(), 2);
  EXPECT_THAT(done(), ElementsAre("0+8", "flush", "0+8", "flush"));
}

TEST_F(SupersededTest, AcrossABarrierItIsNotWrittenWhereOrderIsRelaxed) {
  RigOptions o;
  o.writeback.strict = false;
  start(o);
  rig_->write(0, 4096, 1);
  rig_->flush();
  rig_->write(4096, 4096, 7);
  rig_->flush();
  write_kset(0, 2);
  EXPECT_EQ(rig_->write_back(), 1);
  EXPECT_THAT(done(), ElementsAre("0+16", "flush")) << "and a batch spans epochs";
  EXPECT_EQ(rig_->device_value(0), 2);
}

// A change holds from the next step on. What was dirty is a mixture until all of it is there.
TEST_F(SupersededTest, TheOrderMayChangeBetweenSteps) {
  start();
  rig_->writeback->set_strict(false);
  rig_->write(0, 4096, 1);
  rig_->flush();
  write_kset(0, 2);
  EXPECT_EQ(rig_->write_back(), 1);
  EXPECT_THAT(done(), ElementsAre("0+8", "flush"));
  rig_->writeback->set_strict(true);
  rig_->write(8192, 4096, 3);
  rig_->flush();
  write_kset(8192, 4);
  EXPECT_EQ(rig_->write_back(), 2);
  EXPECT_THAT(done(), ElementsAre("0+8", "flush", "16+8", "flush", "16+8", "flush"));
  EXPECT_EQ(rig_->device_value(8192), 4);
}

// The device has what was written before the drain, or what is newer.
TEST_F(SupersededTest, ByWhatComesBehindADrainItIsWritten) {
  start();
  Writeback::Size drain = rig_->batch();
  drain.live = LiveData::kDrain;
  write_kset(0, 1);
  write_kset(0, 2);
  const LogMark until = rig_->log->mark();
  write_kset(0, 3);
  EXPECT_TRUE(rig_->writeback->step(until, drain).value());
  EXPECT_THAT(done(), ElementsAre("0+8", "flush"));
  EXPECT_EQ(rig_->device_value(0), 2);
  EXPECT_TRUE(rig_->writeback->step(rig_->log->mark(), drain).value());
  EXPECT_EQ(rig_->device_value(0), 3);
}

// Else the drain would end, and neither the old data nor the new would be on the device.
TEST_F(SupersededTest, WhileOthersDrainItIsWritten) {
  start();
  write_kset(0, 1);
  {
    const Writeback::Drain drain(*rig_->writeback);
    const LogMark until = rig_->log->mark();
    write_kset(0, 2);
    Writeback::Size size = rig_->batch();
    size.live = LiveData::kMoveAnyhow;
    EXPECT_TRUE(rig_->writeback->step(until, size).value());
    EXPECT_THAT(done(), ElementsAre("0+8", "flush"));
    EXPECT_EQ(rig_->device_value(0), 1);
  }
  write_kset(0, 3);
  EXPECT_TRUE(step().value());
  EXPECT_EQ(counters().superseded_keys, 1u);
}

// The end of the other drain counts, too: what supersedes data may come behind it.
TEST_F(SupersededTest, WhileTwoDrainItIsWritten) {
  start();
  const Writeback::Drain first(*rig_->writeback);
  write_kset(0, 1);
  const LogMark until = rig_->log->mark();
  const Writeback::Drain second(*rig_->writeback);
  write_kset(0, 2);
  const Writeback::Size one_kset{1, kHurriedDepth, LiveData::kDrain, WriteReason::kDrain};
  EXPECT_TRUE(rig_->writeback->step(rig_->log->mark(), one_kset).value());
  EXPECT_FALSE(rig_->writeback->behind(until)) << "the first drain has ended";
  EXPECT_EQ(rig_->device_value(0), 1);
}

// A writer changes the index first and appends its key then, under the stripe's lock.
TEST_F(SupersededTest, AWriterThatHasNotAppendedItsKeyIsWaitedFor) {
  start();
  write_kset(0, 1);
  std::atomic<bool> inserted{false}, passed{false};
  std::thread writer([&] {
    const auto place = rig_->head->allocate(4096);
    const Bytes bytes = Rig::filled(4096, 2);
    PCACHE_CHECK(rig_->pmem.store(rig_->table->media(place.pos), bytes.data(), bytes.size()));
    rig_->pmem.fence();
    Stripe& stripe = rig_->stripes->of(0);
    StripeLock lock(stripe);
    PCACHE_CHECK(rig_->stripes->prepare(stripe));
    PCACHE_CHECK(rig_->index->insert({0, 4096}, Location{place.pos, false, 0}).ok());
    inserted = true;
    // Long enough for writeback to pass the key, if it did not wait.
    for (int i = 0; i < 100 && !passed; i++)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_FALSE(passed);
    (void)rig_->stripes->append(
        stripe, make_key({0, 4096}, place.pos, rig_->table->generation(place.pos.seg), 0, 0));
  });
  while (!inserted) std::this_thread::yield();
  EXPECT_TRUE(step().value());
  passed = true;
  writer.join();
  EXPECT_EQ(counters().superseded_keys, 1u);
  EXPECT_EQ(rig_->keys_from({SegId{0}, options_.log_head}).size(), 2u);
}

TEST_F(SupersededTest, ADrainThatNobodyDisturbsWritesTheNewestAlone) {
  start({.batch_bytes = 1});
  Writeback::Size drain = rig_->batch();
  drain.live = LiveData::kDrain;
  write_kset(0, 1);
  write_kset(0, 2);
  while (rig_->writeback->step(rig_->log->mark(), drain).value()) {
  }
  EXPECT_THAT(done(), ElementsAre("0+8", "flush"));
  EXPECT_EQ(rig_->device_value(0), 2);
}

// Nobody knows when what an attach has found in the log is superseded.
TEST_F(SupersededTest, BeforeAnAttachItIsWritten) {
  start();
  write_kset(0, 1);
  attach();
  device_->start_journal();
  write_kset(0, 2);
  rig_->write_back();
  EXPECT_THAT(done(), ElementsAre("0+8", "flush", "0+8", "flush"));
}

// The promise of strict order over many random writes, barriers and batches, and nothing is lost.
class SupersededRandom : public RandomWork {};
INSTANTIATE_TEST_SUITE_P(Seeds, SupersededRandom, ::testing::Range(0, 8));

TEST_P(SupersededRandom, TheDeviceIsAlwaysLegal) {
  work({.batch_bytes = 24 << 10},
       {.operations = 4000, .pages = 12, .sides = 16, .steps = 4, .live = {LiveData::kWrite}});
  EXPECT_GT(counters().superseded_keys, 100u);
}

}  // namespace
}  // namespace pcache
