// SPDX-License-Identifier: GPL-2.0-or-later
// Several batches of writeback under way: planned while an earlier one is not settled, written in
// any order, settled in that of the log.
#include <numeric>
#include <random>

#include "background/writeback_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The three values, driven by hand.
class UnderWayByHand : public WritebackTest, public ::testing::WithParamInterface<bool> {
 protected:
  struct Batch {
    BatchPlan plan;
    WrittenBatch written;
    std::vector<uint32_t> order;
    std::unique_ptr<WriteOuts> out;
  };
  void start() {
    WritebackTest::start({.data_crc = GetParam()});
    settler_ = std::make_unique<Settler>(*rig_->parts, Settler::Options{});
  }
  void TearDown() override {
    settler_.reset();
    WritebackTest::TearDown();
  }
  // One kset of ten pages from there on, which hold `value` and those that follow it.
  void write_kset(uint64_t off, uint32_t value) {
    for (uint32_t i = 0; i < 10; i++) {
      rig_->write(off + i * 8192, 4096, value + i);
      expected_[off + i * 8192] = int(value + i);
    }
    rig_->close();
  }
  // Of one kset.
  Batch plan(const LogMark& from, const Batch* before = nullptr) {
    Batch batch;
    const LogMark head = rig_->log->mark();
    LogKsets log(rig_->pmem, *rig_->table, from.pos, head.pos);
    PlanOptions options{.from = from, .end_ksets = head.ksets, .batch_bytes = 1};
    if (before)
      options.busy = [before](const Extent& extent) { return before->plan.writes_to(extent); };
    EXPECT_TRUE(make_plan(log, options, &batch.plan).ok());
    batch.written = nothing_written(batch.plan);
    batch.order = settler_->order_of(batch.plan);
    batch.out = WriteOuts::create(rig_->out_media(), {}, 1).take();
    return batch;
  }
  static void write(Batch& batch) {
    const WriteResult result = write_plan(*batch.out, batch.plan, {}, &batch.written);
    EXPECT_EQ(result.error, 0);
  }
  void flush(Batch& batch) {
    EXPECT_EQ(flushed(*batch.out), 0);
    batch.written.unflushed = false;
  }
  void settle(Batch& batch) {
    bool tail_failed = true;
    EXPECT_TRUE(settler_->settle(batch.plan, batch.written, batch.order, &tail_failed).ok());
    EXPECT_FALSE(tail_failed);
  }
  // Whatever a crash leaves now serves all that was written, and dirty_tail is one of these.
  void expect_after_each_crash(std::initializer_list<CachePos> tails) {
    int states = 0;
    for_each_crash({}, [&](Rig& rig) {
      states++;
      EXPECT_THAT(tails, ::testing::Contains(rig.tails.dirty_tail()));
      for (const auto& [off, value] : expected_) ASSERT_EQ(rig.value(off), value) << off;
    });
    EXPECT_GT(states, 0);
  }

  std::map<uint64_t, int> expected_;
  std::unique_ptr<Settler> settler_;
};

INSTANTIATE_TEST_SUITE_P(DataCrc, UnderWayByHand, ::testing::Bool());

TEST_P(UnderWayByHand, TheSecondCompletesFirstAndIsSettledSecond) {
  start();
  write_kset(0, 100);
  write_kset(1 << 20, 200);
  image_->memory().checkpoint();
  const CachePos before = dirty_tail();
  Batch first = plan(settler_->settled());
  Batch second = plan(first.plan.end, &first);
  EXPECT_EQ(first.plan.end.ksets, 1u);
  EXPECT_EQ(second.plan.end.ksets, 2u) << "of the same epoch";

  device_->hold();
  std::thread writes_first([&] { write(first); });
  while (device_->held() < 10) std::this_thread::yield();
  std::thread writes_second([&] { write(second); });
  while (device_->held() < 20) std::this_thread::yield();
  for (int i = 0; i < 10; i++) device_->release(10);
  writes_second.join();
  EXPECT_TRUE(second.written.all_written());
  EXPECT_EQ(device_->held(), 10u) << "the first is under way";
  EXPECT_EQ(rig_->device_value(1 << 20), 200);
  EXPECT_EQ(dirty_tail(), before);
  expect_after_each_crash({before});

  device_->release_all();
  writes_first.join();
  flush(second);
  bool tail_failed = false;
  EXPECT_DEATH((void)settler_->settle(second.plan, second.written, second.order, &tail_failed),
               "plan.begin");
  EXPECT_DEATH((void)settler_->settle(first.plan, first.written, first.order, &tail_failed),
               "unflushed");
  EXPECT_EQ(dirty_tail(), before);
  EXPECT_TRUE(image_->memory().journal().empty()) << "nothing is stored before a batch is settled";
  expect_after_each_crash({before});

  flush(first);
  settle(first);
  EXPECT_EQ(dirty_tail(), first.plan.end.pos);
  EXPECT_FALSE(rig_->dirty(0));
  EXPECT_TRUE(rig_->dirty(1 << 20)) << "written, and not settled";
  expect_after_each_crash({before, first.plan.end.pos});
  settle(second);
  EXPECT_EQ(dirty_tail(), rig_->log->head());
  EXPECT_FALSE(rig_->dirty(1 << 20));
  expect_after_each_crash({before, first.plan.end.pos, second.plan.end.pos});
}

// Written first, it would be gone when the older data comes.
TEST_P(UnderWayByHand, WhatOverwritesAnotherBatchIsNotPlannedBehindIt) {
  start();
  write_kset(0, 100);
  write_kset(4096 * 3, 200);
  Batch first = plan(settler_->settled());
  EXPECT_EQ(plan(first.plan.end, &first).plan.end.ksets, 2u) << "pages between the others";
  write_kset(0, 300);
  Batch third = plan(plan(first.plan.end).plan.end, &first);
  EXPECT_TRUE(third.plan.empty());
}

// By steps, as Writeback does it that may have several under way.
class UnderWay : public WritebackTest {
 protected:
  void start(uint32_t most_under_way = 2, RigOptions o = {}) {
    o.batch_bytes = 1;  // a kset each
    o.writeback.most_under_way = most_under_way;
    WritebackTest::start(o);
    device_->set_fate([this](BlockOp op, const Extent& extent) {
      return MemoryDevice::Fate{.error = op == BlockOp::kWrite && extent.off == bad_ ? EIO : 0};
    });
  }
  void write_kset(uint64_t off, uint32_t value) {
    rig_->write(off, 4096, value);
    rig_->close();
  }

  static constexpr uint64_t kNone = UINT64_MAX;
  uint64_t bad_ = kNone;  // a write there fails
};

TEST_F(UnderWay, ABadPlaceDoesNotKeepTheNextBatchFromBeingWritten) {
  start();
  write_kset(0, 1);
  write_kset(8192, 2);
  write_kset(16384, 3);
  const CachePos before = dirty_tail();
  bad_ = 0;
  for (int i = 0; i < 3; i++) EXPECT_THAT(step_error(), HasSubstr("failed at 0+4096"));
  EXPECT_THAT(done(), ElementsAre("16+8")) << "once, and no third batch";
  EXPECT_EQ(dirty_tail(), before);
  EXPECT_TRUE(rig_->dirty(8192)) << "not settled";
  EXPECT_EQ(counters().batches, 0u);
  EXPECT_EQ(rig_->writeback->unwritten_bytes(), 4096u);
  bad_ = kNone;
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("16+8", "0+8", "flush")) << "one flush for both";
  EXPECT_EQ(counters().batches, 2u);
  EXPECT_EQ(rig_->writeback->passed_ksets(), 2u);
  EXPECT_FALSE(rig_->dirty(0));
  EXPECT_FALSE(rig_->dirty(8192));
  EXPECT_TRUE(step().value());
  EXPECT_EQ(dirty_tail(), rig_->log->head());
}

TEST_F(UnderWay, TheFirstIsSettledWhileTheSecondFails) {
  start();
  write_kset(0, 1);
  write_kset(8192, 2);
  bad_ = 8192;
  EXPECT_TRUE(step().value());
  EXPECT_EQ(rig_->writeback->passed_ksets(), 1u);
  EXPECT_EQ(rig_->writeback->unwritten_bytes(), 4096u);
  EXPECT_THAT(step_error(), HasSubstr("failed at 8192+4096"));
  bad_ = kNone;
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+8", "flush", "16+8", "flush"));
  EXPECT_EQ(dirty_tail(), rig_->log->head());
}

TEST_F(UnderWay, BehindABarrierNothingIsWritten) {
  start(3);
  write_kset(0, 1);
  rig_->flush();
  write_kset(8192, 2);
  bad_ = 0;
  EXPECT_FALSE(step().ok());
  EXPECT_THAT(done(), IsEmpty());
  bad_ = kNone;
  EXPECT_EQ(rig_->write_back(), 2);
  EXPECT_THAT(done(), ElementsAre("0+8", "flush", "16+8", "flush"));
}

// The epoch was open when its first batch was planned.
TEST_F(UnderWay, NorBehindABarrierThatCameMeanwhile) {
  start(3);
  write_kset(0, 1);
  bad_ = 0;
  EXPECT_FALSE(step().ok());
  write_kset(8192, 2);
  rig_->flush();
  write_kset(16384, 3);
  EXPECT_FALSE(step().ok());
  EXPECT_THAT(done(), ElementsAre("16+8")) << "before the barrier";
  bad_ = kNone;
  EXPECT_EQ(rig_->write_back(), 2);
  EXPECT_THAT(done(), ElementsAre("16+8", "0+8", "flush", "32+8", "flush"));
}

TEST_F(UnderWay, WhatOverwritesABatchWaitsForIt) {
  start();
  write_kset(0, 1);
  bad_ = 0;
  EXPECT_FALSE(step().ok());
  write_kset(0, 2);
  EXPECT_FALSE(step().ok());
  bad_ = kNone;
  EXPECT_EQ(rig_->write_back(), 2);
  EXPECT_THAT(done(), ElementsAre("0+8", "flush", "0+8", "flush"));
  EXPECT_EQ(rig_->device_value(0), 2);
}

TEST_F(UnderWay, AFailedFlushHasAllOfThemWrittenAgain) {
  start();
  write_kset(0, 1);
  write_kset(8192, 2);
  device_->set_error(BlockOp::kFlush, EIO);
  EXPECT_THAT(step_error(), HasSubstr("its flush failed"));
  device_->set_error(0);
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+8", "16+8", "0+8", "16+8", "flush"));
  EXPECT_EQ(dirty_tail(), rig_->log->head());
}

TEST_F(UnderWay, DamagedDataOfTheFirstIsPassedInOrder) {
  start(2, {.data_crc = true});
  write_kset(0, 1);
  write_kset(8192, 2);
  rig_->flush();
  damage(0);
  EXPECT_TRUE(step().value());
  EXPECT_EQ(rig_->writeback->passed_ksets(), 2u);
  EXPECT_TRUE(rig_->dirty(0));
  EXPECT_FALSE(rig_->dirty(8192));
  EXPECT_THAT(lost_, ElementsAre(EIO));
  EXPECT_EQ(rig_->keys_from(dirty_tail()).size(), 1u) << "appended again";
}

TEST_F(UnderWay, ProgressAddsUpToWhatIsPassed) {
  std::vector<uint64_t> progress;
  RigOptions o;
  o.writeback.progress = [&](uint64_t bytes) { progress.push_back(bytes); };
  start(2, o);
  const auto total = [&] { return std::accumulate(progress.begin(), progress.end(), uint64_t{0}); };
  write_kset(0, 1);
  write_kset(8192, 2);
  bad_ = 0;
  EXPECT_FALSE(step().ok());
  EXPECT_EQ(total(), 4096u - 4096 / kMarkingShare) << "of the second";
  device_->set_error(BlockOp::kFlush, EIO);
  bad_ = kNone;
  EXPECT_FALSE(step().ok());
  device_->set_error(0);
  EXPECT_TRUE(step().value());
  EXPECT_EQ(total(), 8192u) << "nothing twice, though both were written again";
}

// At any moment, whatever of the unflushed writes a loss of power keeps, the device alone is a
// state that the user's barriers allow, and a batch that is late puts no older data over newer.
TEST_F(UnderWay, TheDeviceAloneIsAlwaysLegal) {
  uint64_t settled_together = 0;
  for (uint64_t seed = 1; seed <= 8; seed++) {
    std::mt19937_64 random(seed);
    start(1 + seed % 4, {.data_crc = seed % 2 == 0});
    bool healed = false;
    device_->set_fate([&](BlockOp op, const Extent& extent) {
      const bool bad = !healed && op == BlockOp::kWrite && (extent.off / 4096 + seed) % 3 == 0;
      return MemoryDevice::Fate{.error = bad ? EIO : 0};
    });
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Epochs user{.place_bytes = 4096};
    for (uint32_t i = 0; i < 1500; i++) {
      const uint64_t choice = random() % 100;
      if (choice < 60) {
        const uint32_t value = user.new_value();
        const uint64_t off = random() % 48 * 4096;
        rig_->write(off, 4096, value);
        user.now[off] = value;
      } else if (choice < 63) {
        rig_->flush();
        user.barrier();
      } else if (choice < 80) {
        rig_->close();
      } else {
        healed = choice < 90;
        const uint64_t batches = counters().batches.load();
        (void)step();
        settled_together += counters().batches.load() > batches + 1;
      }
    }
    healed = true;
    rig_->flush();
    rig_->write_back();
    ASSERT_NO_FATAL_FAILURE(expect_device_was_legal(user));
  }
  EXPECT_GT(settled_together, 50u) << "several were under way";
}

}  // namespace
}  // namespace pcache
