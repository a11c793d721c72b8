// SPDX-License-Identifier: GPL-2.0-or-later
// A front that follows what another process has passed: here by a dirty_tail that the test stores.
#include "background/background_for_test.h"

namespace pcache {
namespace {

class FollowTest : public BackgroundTest {
 protected:
  void SetUp() override {
    RigOptions o;
    o.follows = true;
    BackgroundTest::start(o);
  }
  // As a backend that has seen and written all up to there.
  void pass(CachePos to) {
    Tails of_backend;
    ASSERT_TRUE(of_backend.load(image_->pmem(), {options_.segments, options_.logical_bytes}).ok());
    ASSERT_TRUE(of_backend.set_dirty_tail(image_->pmem(), to).ok());
  }
  void write(Rig& rig, uint64_t off) {
    const uint64_t before = rig.log->mark().ksets;
    ASSERT_TRUE(rig.write(off, 4096, 1));
    rig.close();
    ASSERT_EQ(rig.log->mark().ksets, before + 1);
    const auto data = Rig::filled(4096, 1);
    device_->poke(off, data);
  }
};

// The worker takes its mark once, and steps on while others append.
TEST_F(FollowTest, WhatIsPassedBehindTheStepsEndIsFollowed) {
  write(*rig_, 0);
  const LogMark before = rig_->log->mark();
  write(*rig_, 4096);
  pass(rig_->log->head());
  const auto moved = rig_->writeback->step(before, rig_->batch());
  ASSERT_TRUE(moved.ok()) << moved.error().text;
  EXPECT_TRUE(moved.value());
  EXPECT_FALSE(rig_->dirty(0) || rig_->dirty(4096));
  EXPECT_EQ(rig_->tails.dirty_tail(), rig_->log->head());
  EXPECT_FALSE(rig_->writeback->step(before, rig_->batch()).value());
}

// A commit stores the kset's header, and shows the new head later: as a second log does it, which
// never shows it here.
TEST_F(FollowTest, WhatIsPassedBeforeItsCommitShowsItWaits) {
  write(*rig_, 0);
  const CachePos shown = rig_->log->head();
  Rig committing(image_->pmem(), *image_, *device_, options_);
  write(committing, 4096);
  pass(committing.log->head());
  const auto moved = step();
  ASSERT_TRUE(moved.ok()) << moved.error().text;
  EXPECT_FALSE(moved.value());
  EXPECT_TRUE(rig_->dirty(0));
  pass(shown);
  EXPECT_TRUE(step().value());
  EXPECT_FALSE(rig_->dirty(0));
  EXPECT_EQ(rig_->writeback->counters().errors.load(), 0u);
}

TEST_F(FollowTest, WhatTheLogDoesNotLeadToIsDamage) {
  write(*rig_, 0);
  const CachePos head = rig_->log->head();
  for (const CachePos to : {head + 8, head + 4096, CachePos{SegId{5}, 0}}) {
    pass(to);
    EXPECT_EQ(step().error().code, EUCLEAN);
    EXPECT_TRUE(rig_->dirty(0));
  }
}

}  // namespace
}  // namespace pcache
