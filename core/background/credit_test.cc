// SPDX-License-Identifier: GPL-2.0-or-later
// What writeback tells as progress, for which writers are let in, where live data is moved.
#include <algorithm>

#include "background/writeback_for_test.h"

namespace pcache {
namespace {

using ::testing::IsEmpty;

class MoveCredit : public WritebackTest {
 protected:
  static constexpr uint32_t kPages = 8;

  void start(RigOptions o = {}) {
    told_ = 0;
    o.writeback.progress = [this](uint64_t bytes) { told_ += bytes; };
    o.writeback.stored = [this] {
      if (stored_) stored_();
    };
    WritebackTest::start(o);
  }
  void TearDown() override {
    stored_ = nullptr;
    WritebackTest::TearDown();
  }
  // The first pages of a range, in a kset of their own.
  void write_pages(uint64_t range, uint32_t pages = kPages) {
    for (uint32_t i = 0; i < pages; i++)
      rig_->write(range * kRangeBytes + i * 4096, 4096, ++value_);
    rig_->close();
  }
  Result<bool> move_step() {
    Writeback::Size size = rig_->batch();
    size.live = LiveData::kMoveAnyhow;
    return rig_->writeback->step(rig_->log->mark(), size);
  }
  uint64_t moved_bytes() const { return rig_->writeback->moved().moved_bytes.load(); }
  // What has come free, or will, for writers: a copy takes what it frees.
  uint64_t freed_bytes() const { return rig_->writeback->passed_dirty_bytes() - moved_bytes(); }

  uint64_t told_ = 0;
  uint32_t value_ = 0;
  std::function<void()> stored_;
};

// Or writers would wait until a whole batch is moved.
TEST_F(MoveCredit, IsToldAsTheMoveGoesOn) {
  start();
  for (const int times : {1, 2})
    for (uint64_t range = 0; range < 4; range++) write_pages(range, kPages / times);
  std::vector<uint64_t> told_before;  // the copies of each stripe are entered
  stored_ = [&] { told_before.push_back(told_); };
  EXPECT_TRUE(move_step().value());
  EXPECT_THAT(done(), IsEmpty());
  ASSERT_GE(told_before.size(), 4u);
  EXPECT_EQ(told_before.front(), 0u);
  EXPECT_EQ(std::adjacent_find(told_before.begin(), told_before.end(), std::greater_equal<>()),
            told_before.end())
      << ::testing::PrintToString(told_before);
  EXPECT_EQ(told_, 4 * kPages / 2 * 4096) << "what was superseded";
  EXPECT_EQ(told_, freed_bytes());
}

// What was moved before something else could not be is superseded then, but nothing came free.
TEST_F(MoveCredit, OfAMoveInVainIsNotToldAgain) {
  start();
  write_pages(0);
  write_pages(1);
  uint64_t cut = kRangeBytes;
  stored_ = [&] {
    if (cut == kRangeBytes + 4096) return;
    rig_->write(cut, kSector, ++value_);
    cut += kSector;
  };
  EXPECT_TRUE(move_step().value());
  EXPECT_GE(moved_bytes(), kPages * 4096);
  EXPECT_EQ(counters().superseded_keys, 2 * kPages - 1) << "by their copies";
  EXPECT_GT(counters().written_bytes, 0u) << "the page that was cut";
  EXPECT_EQ(told_, freed_bytes());
  rig_->close();
  rig_->write_back();
  EXPECT_EQ(told_, freed_bytes());
}

TEST_F(MoveCredit, OfAMoveThatABarrierMadeVainIsNotToldAgain) {
  start();
  write_pages(0);
  write_pages(0, kPages / 2);
  bool flushes = true;
  stored_ = [&] {
    if (std::exchange(flushes, false)) rig_->flush();
  };
  EXPECT_TRUE(move_step().value());
  EXPECT_EQ(moved_bytes(), kPages * 4096);
  EXPECT_EQ(counters().superseded_keys, 0u) << "all was written";
  EXPECT_EQ(told_, freed_bytes());
  rig_->write_back();
  EXPECT_EQ(told_, freed_bytes());
}

// The batches that are under way when the device fails are planned anew.
TEST_F(MoveCredit, OfABatchThatIsPlannedAnewIsNotToldAgain) {
  RigOptions o;
  o.batch_bytes = 1;  // a kset
  o.writeback.most_under_way = 2;
  start(o);
  write_pages(0);
  write_pages(0, kPages - 2);
  device_->set_error(BlockOp::kFlush, EIO);
  EXPECT_FALSE(move_step().ok());
  EXPECT_EQ(moved_bytes(), 2 * 4096u);
  EXPECT_EQ(rig_->writeback->passed_ksets(), 0u);
  device_->set_error(BlockOp::kFlush, 0);
  EXPECT_TRUE(move_step().value());
  EXPECT_EQ(moved_bytes(), 2 * 4096u);
  rig_->write_back();
  EXPECT_EQ(told_, freed_bytes());
}

}  // namespace
}  // namespace pcache
