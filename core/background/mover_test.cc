// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/mover.h"

#include "background/random_work_for_test.h"

namespace pcache {
namespace {

using media::Key;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class MoverTest : public WritebackTest {
 protected:
  void start(const RigOptions& o = {}) {
    WritebackTest::start(o);
    make_mover();
  }
  void make_mover(std::function<void()> stored = nullptr) {
    mover_ = std::make_unique<Mover>(*rig_->parts, std::move(stored));
  }
  void TearDown() override {
    mover_.reset();
    WritebackTest::TearDown();
  }
  std::vector<Key> keys() const { return rig_->keys_from(rig_->tails.key_tail()); }
  CachePos place(uint64_t off) const { return rig_->lookup({off, kSector}).pos; }

  std::unique_ptr<Mover> mover_;
};

TEST_F(MoverTest, TheDataIsElsewhereUnderANewKey) {
  start();
  rig_->write(0, 8192, 1);
  rig_->close();
  const CachePos before = place(0);
  EXPECT_TRUE(mover_->move(keys()));
  EXPECT_NE(place(0).seg, before.seg);
  EXPECT_EQ(rig_->mapped(0, 8192), "DDDDDDDDDDDDDDDD");
  EXPECT_EQ(rig_->value(0), 1);
  EXPECT_EQ(rig_->value(7680), 1);
  EXPECT_EQ(mover_->counters().moved_keys.load(), 1u);
  EXPECT_EQ(mover_->counters().moved_bytes.load(), 8192u);
  rig_->close();
  const auto now = keys();
  ASSERT_EQ(now.size(), 2u);
  EXPECT_EQ(now[1].off, 0u);
  EXPECT_EQ(now[1].len, 8192u);
  EXPECT_EQ(now[1].flags & media::kKeyClean, 0u);
}

TEST_F(MoverTest, CleanDataStaysClean) {
  start({.data_crc = true});
  rig_->fill(0, 16384);
  rig_->close();
  EXPECT_TRUE(mover_->move(keys()));
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
  EXPECT_EQ(rig_->value(0), Rig::kBacking);
  rig_->close();
  EXPECT_NE(keys().back().flags & media::kKeyClean, 0u);
}

// Another thread may commit the kset, and its fence would not be the mover's.
TEST_F(MoverTest, TheDataIsDurableBeforeAKeyNamesIt) {
  start();
  rig_->write(0, 8192, 1);
  rig_->close();
  image_->memory().checkpoint();
  int times = 0;
  make_mover([&] {
    times++;
    EXPECT_FALSE(image_->memory().journal().empty());
    EXPECT_TRUE(all_durable(image_->memory().journal()));
  });
  EXPECT_TRUE(mover_->move(keys()));
  EXPECT_EQ(times, 1);
}

// Each place is read as it was after any crash, and the log never names a place that is free.
TEST_F(MoverTest, ACrashInAnyStepLosesNothing) {
  for (const bool data_crc : {false, true}) {
    start({.data_crc = data_crc});
    for (uint32_t i = 0; i < 4; i++) rig_->write(i * 4096, 4096, i + 1);
    rig_->close();
    image_->memory().checkpoint();
    EXPECT_TRUE(mover_->move(keys()));
    rig_->close();
    int states = 0;
    for_each_crash({}, [&](Rig& rig) {
      states++;
      for (uint32_t i = 0; i < 4; i++) {
        ASSERT_EQ(rig.value(i * 4096), int(i + 1));
        ASSERT_TRUE(rig.dirty(i * 4096));
      }
    });
    EXPECT_GT(states, 1);
    mover_.reset();
    attach();
    EXPECT_EQ(rig_->value(4096), 2);
  }
}

// Hazard moved-over-newer.
TEST_F(MoverTest, WhatIsWrittenMeanwhileStays) {
  start();
  rig_->write(0, 8192, 1);
  rig_->close();
  make_mover([&] { rig_->write(0, 4096, 2); });
  EXPECT_FALSE(mover_->move(keys())) << "half of it is left";
  EXPECT_EQ(rig_->value(0), 2);
  EXPECT_EQ(rig_->value(4096), 1);
  make_mover();
  EXPECT_TRUE(mover_->move({keys().data(), 1}));
  EXPECT_EQ(rig_->value(0), 2);
  EXPECT_EQ(rig_->value(4096), 1);
  rig_->flush();
  mover_.reset();
  attach();
  EXPECT_EQ(rig_->value(0), 2);
  EXPECT_EQ(rig_->value(4096), 1);
}

// A clean key that comes after the write's would give the device's data back.
TEST_F(MoverTest, AndSoItIsWithCleanData) {
  start();
  rig_->fill(0, 8192);
  rig_->close();
  make_mover([&] { rig_->write(0, 4096, 2); });
  EXPECT_FALSE(mover_->move(keys())) << "half of it is left";
  EXPECT_EQ(rig_->value(0), 2);
  rig_->flush();
  mover_.reset();
  attach();
  EXPECT_EQ(rig_->mapped(0, 512), "D");
  EXPECT_EQ(rig_->value(0), 2);
  EXPECT_EQ(rig_->value(4096), Rig::kBacking);
}

TEST_F(MoverTest, WhatIsAllOverwrittenMeanwhileIsNotLeft) {
  start();
  rig_->write(0, 8192, 1);
  rig_->close();
  make_mover([&] { rig_->write(0, 8192, 2); });
  EXPECT_TRUE(mover_->move(keys()));
  EXPECT_EQ(mover_->counters().moved_keys.load(), 0u);
  EXPECT_EQ(rig_->value(0), 2);
}

// They are entered in several turns, and leave no reference behind.
TEST_F(MoverTest, AKeyInManyPieces) {
  start();
  rig_->write(0, kRangeBytes, 1);
  for (uint64_t at = 0; at < kRangeBytes; at += 8192) rig_->write(at, 512, 2);
  rig_->close();
  EXPECT_TRUE(mover_->move({keys().data(), 1}));
  EXPECT_GE(mover_->counters().moved_keys.load(), kRangeBytes / 8192);
  for (uint64_t at = 0; at < kRangeBytes; at += 8192) {
    ASSERT_EQ(rig_->value(at), 2);
    ASSERT_EQ(rig_->value(at + 512), 1);
    ASSERT_EQ(rig_->value(at + 4096), 1);
  }
  rig_->write_back();
  rig_->reclaim_all();
  mover_.reset();
  rig_->head.reset();
  const SegmentCounts counts = rig_->table->counts();
  EXPECT_EQ(counts.free + 1, counts.total) << "all but the log's";
}

TEST_F(MoverTest, AKeyThatGoesOnInAnotherSegment) {
  start();
  for (uint32_t i = 0; i < 5; i++) rig_->write(i * kRangeBytes, kRangeBytes, i + 1);
  rig_->close();
  for (const Key& key : keys()) EXPECT_TRUE(mover_->move({&key, 1}));
  EXPECT_EQ(mover_->counters().moved_bytes.load(), 5 * kRangeBytes);
  EXPECT_GT(mover_->counters().moved_keys.load(), 5u) << "one is in two segments";
  for (uint32_t i = 0; i < 5; i++) {
    EXPECT_EQ(rig_->value(i * kRangeBytes), int(i + 1));
    EXPECT_EQ(rig_->value((i + 1) * kRangeBytes - 512), int(i + 1));
  }
}

// The kernel target's keys with a crc may be as long as others.
TEST_F(MoverTest, LongExtentsWithACrcAreCut) {
  start({.data_crc = true, .crc_extent_bytes = 64 << 10});
  rig_->write(0, 64 << 10, 1);
  rig_->close();
  EXPECT_TRUE(mover_->move(keys()));
  EXPECT_EQ(mover_->counters().moved_keys.load(), 64u * 1024 / kCrcExtentBytes);
  for (uint64_t at = 0; at < 64 << 10; at += 4096) EXPECT_EQ(rig_->value(at), 1);
}

TEST_F(MoverTest, AndVeryLongOnesAreLeft) {
  start({.data_crc = true, .crc_extent_bytes = 128 << 10});
  rig_->write(0, 128 << 10, 1);
  rig_->close();
  EXPECT_FALSE(mover_->move(keys()));
  EXPECT_EQ(mover_->counters().moved_keys.load(), 0u);
  EXPECT_EQ(rig_->value(0), 1);
}

TEST_F(MoverTest, OnlyWhatIsLeftOfAKeyIsMoved) {
  for (const bool data_crc : {false, true}) {
    start({.data_crc = data_crc});
    rig_->write(0, 8192, 1);
    rig_->close();
    rig_->write(512, 512, 2);
    rig_->write(4096, 4096, 3);
    EXPECT_TRUE(mover_->move({keys().data(), 1}));
    EXPECT_EQ(mover_->counters().moved_bytes.load(), 512u + 3072u);
    EXPECT_EQ(rig_->value(0), 1);
    EXPECT_EQ(rig_->value(512), 2);
    EXPECT_EQ(rig_->value(1024), 1);
    EXPECT_EQ(rig_->value(4096), 3);
    mover_.reset();
  }
}

TEST_F(MoverTest, DamagedDataIsNotMoved) {
  for (const bool data_crc : {false, true}) {
    start({.data_crc = data_crc});
    rig_->write(0, 4096, 1);
    rig_->write(4096, 4096, 2);
    rig_->close();
    if (data_crc)
      damage(0);
    else
      make_unreadable(0);
    const CachePos before = place(0);
    EXPECT_FALSE(mover_->move(keys()));
    EXPECT_EQ(place(0), before);
    EXPECT_EQ(rig_->value(0), Rig::kUnreadable);
    mover_.reset();
  }
}

TEST_F(MoverTest, WithoutAPlaceNothingIsMoved) {
  start({.segments = 4});
  rig_->write(0, 4096, 1);
  rig_->close();
  while (rig_->table->take_for_data()) {
  }
  const CachePos before = place(0);
  EXPECT_FALSE(mover_->move(keys()));
  EXPECT_EQ(place(0), before);
  EXPECT_EQ(rig_->value(0), 1);
}

// Writeback that moves.
class MovingWriteback : public WritebackTest {
 protected:
  Result<bool> step_with(LiveData live) {
    Writeback::Size size = rig_->batch();
    size.live = live;
    return rig_->writeback->step(rig_->log->mark(), size);
  }
  void write_pages(uint32_t n, uint32_t value) {
    for (uint32_t i = 0; i < n; i++) rig_->write(i * 4096, 4096, value + i);
    rig_->close();
  }
};

TEST_F(MovingWriteback, NothingIsWrittenAndTheSpaceComesFree) {
  start();
  write_pages(10, 100);
  write_pages(5, 200);
  image_->memory().checkpoint();
  const LogMark until = rig_->log->mark();
  EXPECT_TRUE(step_with(LiveData::kMove).value());
  EXPECT_THAT(done(), IsEmpty());
  EXPECT_EQ(dirty_tail(), until.pos);
  EXPECT_EQ(counters().superseded_keys, 5u);
  EXPECT_EQ(rig_->writeback->moved().moved_keys.load(), 10u);
  for_each_crash({}, [&](Rig& rig) {
    for (uint32_t i = 0; i < 10; i++) {
      ASSERT_EQ(rig.value(i * 4096), int(i < 5 ? 200 + i : 100 + i));
      ASSERT_TRUE(rig.dirty(i * 4096));
    }
  });
  EXPECT_GT(rig_->reclaim_all(), 0);
  for (uint32_t i = 0; i < 10; i++)
    EXPECT_EQ(rig_->value(i * 4096), int(i < 5 ? 200 + i : 100 + i));
  rig_->write_back();
  for (uint32_t i = 0; i < 10; i++)
    EXPECT_EQ(rig_->device_value(i * 4096), int(i < 5 ? 200 + i : 100 + i));
}

TEST_F(MovingWriteback, IsLeftForLaterWhereItPays) {
  start();
  write_pages(10, 100);
  write_pages(5, 200);
  image_->memory().checkpoint();
  EXPECT_FALSE(rig_->writeback->moving_pays());
  EXPECT_FALSE(step_with(LiveData::kLeave).value());
  EXPECT_TRUE(rig_->writeback->moving_pays());
  EXPECT_TRUE(image_->memory().journal().empty());
  EXPECT_THAT(done(), IsEmpty());
}

// Superseded data is passed all the same.
TEST_F(MovingWriteback, IsLeftForLaterWhileReclaimIsBehind) {
  start({.batch_bytes = 1});
  write_pages(5, 100);
  write_pages(5, 200);
  EXPECT_TRUE(step_with(LiveData::kLeaveAll).value());
  EXPECT_EQ(counters().superseded_keys, 5u);
  EXPECT_FALSE(step_with(LiveData::kLeaveAll).value());
  EXPECT_THAT(done(), IsEmpty());
  EXPECT_TRUE(step_with(LiveData::kMove).value());
  EXPECT_THAT(done(), ElementsAre("0+40", "flush"));
}

TEST_F(MovingWriteback, WhatIsAllLiveIsWritten) {
  start();
  write_pages(10, 100);
  EXPECT_TRUE(step_with(LiveData::kMove).value());
  EXPECT_THAT(done(), ElementsAre("0+80", "flush"));
  EXPECT_FALSE(rig_->writeback->moving_pays());
  EXPECT_EQ(rig_->writeback->moved().moved_keys.load(), 0u);
}

TEST_F(MovingWriteback, BehindABarrierItIsWritten) {
  start();
  write_pages(10, 100);
  write_pages(9, 200);
  rig_->flush();
  EXPECT_TRUE(step_with(LiveData::kMove).value());
  EXPECT_THAT(done(), ElementsAre("0+80", "flush"));
  EXPECT_EQ(rig_->writeback->moved().moved_keys.load(), 0u);
}

// What is moved after the plan may come behind a barrier: its key is then of a later epoch.
TEST_F(MovingWriteback, ABarrierMeanwhileHasItWritten) {
  bool flushes = false;
  RigOptions o;
  o.writeback.stored = [this, &flushes] {
    if (std::exchange(flushes, false)) rig_->flush();
  };
  start(o);
  write_pages(10, 100);
  write_pages(5, 200);
  flushes = true;
  EXPECT_TRUE(step_with(LiveData::kMove).value());
  EXPECT_FALSE(flushes) << "it began to move";
  EXPECT_THAT(done(), ElementsAre("0+80", "flush"));
}

// A log that has failed takes no key for what is moved: it would be dirty for ever.
TEST_F(MovingWriteback, InALogThatHasFailedItIsWritten) {
  start({.log_head = kPageBytes - kset_bytes(10) - kset_bytes(5)});
  write_pages(10, 100);
  write_pages(5, 200);
  image_->memory().checkpoint();
  ASSERT_EQ(rig_->log->head().off, kPageBytes);
  image_->memory().make_bad(rig_->table->media(rig_->log->head()));
  rig_->write(40960, 4096, 8);
  EXPECT_FALSE(rig_->stripes->close_all().ok());
  ASSERT_TRUE(rig_->log->failed());
  EXPECT_TRUE(step_with(LiveData::kMoveAnyhow).value());
  EXPECT_EQ(rig_->writeback->moved().moved_keys.load(), 0u);
  EXPECT_EQ(rig_->device_value(0), 200);
}

// Hazard failed-move-passed.
TEST_F(MovingWriteback, WhatCannotBeMovedIsWritten) {
  start({.segments = 4});
  write_pages(10, 100);
  write_pages(5, 200);
  while (rig_->table->take_for_data()) {
  }
  EXPECT_TRUE(step_with(LiveData::kMove).value());
  EXPECT_THAT(done(), ElementsAre("0+80", "flush"));
  EXPECT_EQ(rig_->writeback->moved().moved_keys.load(), 0u);
  for (uint32_t i = 0; i < 10; i++)
    EXPECT_EQ(rig_->device_value(i * 4096), int(i < 5 ? 200 + i : 100 + i));
}

class MovingRandom : public RandomWork {};
INSTANTIATE_TEST_SUITE_P(Seeds, MovingRandom, ::testing::Range(0, 8));

TEST_P(MovingRandom, TheDeviceIsAlwaysLegal) {
  work({.data_crc = GetParam() % 2 == 1, .batch_bytes = 64 << 10},
       {.operations = 6000,
        .pages = 40,
        .sides = 32,
        .steps = 6,
        .live = {LiveData::kMoveAnyhow, LiveData::kMove, LiveData::kWrite}});
  EXPECT_GT(rig_->writeback->moved().moved_keys.load(), 100u);
}

}  // namespace
}  // namespace pcache
