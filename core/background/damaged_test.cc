// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback over dirty data, and over a log, that media has damaged.
#include "background/damaged.h"

#include "background/writeback_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DamagedDirtyData : public WritebackTest, public ::testing::WithParamInterface<bool> {
 protected:
  // With data_crc a bit is wrong, without it the media cannot be read.
  void start() { WritebackTest::start({.data_crc = GetParam()}); }
  void spoil(uint64_t off) {
    if (GetParam())
      damage(off);
    else
      make_unreadable(off);
  }
  void write_pages(uint32_t n) {
    for (uint32_t i = 0; i < n; i++) rig_->write(i * 4096, 4096, i + 1);
  }
  void expect_kept() {
    EXPECT_EQ(rig_->value(4096), Rig::kUnreadable);
    EXPECT_EQ(rig_->mapped(4096, 4096), "DDDDDDDD");
    EXPECT_EQ(rig_->device_value(4096), Rig::kBacking);
  }
};

INSTANTIATE_TEST_SUITE_P(DataCrc, DamagedDirtyData, ::testing::Bool());

TEST_P(DamagedDirtyData, IsKeptAndPassed) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  EXPECT_TRUE(step().value());
  expect_kept();
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->device_value(8192), 3);
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
  EXPECT_THAT(lost_, ElementsAre(EIO));
  EXPECT_EQ(counters().bad_keys, 1u);
  EXPECT_THAT(rig_->lines.lines,
              ElementsAre(HasSubstr("dirty data of range 4096+4096 is damaged")));
  const auto left = rig_->keys_from(dirty_tail());
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(left[0].off, 4096u);
  EXPECT_EQ(left[0].len, 4096u);
}

// Attach takes a kset of two keys that stands there twice for a copy, and refuses.
TEST_P(DamagedDirtyData, OfTwoStripesIsAppendedInTwoKsets) {
  constexpr uint64_t kOther = 4 << 20;
  start();
  ASSERT_NE(&rig_->stripes->of(0), &rig_->stripes->of(kOther));
  rig_->write(0, 4096, 1);
  rig_->write(kOther, 4096, 2);
  rig_->flush();
  EXPECT_EQ(rig_->log->counters().ksets, 1u);
  spoil(0);
  spoil(kOther);
  EXPECT_TRUE(step().value());
  EXPECT_EQ(counters().bad_keys, 2u);
  EXPECT_EQ(rig_->keys_from(dirty_tail()).size(), 2u);
  EXPECT_EQ(rig_->log->counters().ksets, 3u);
}

TEST_P(DamagedDirtyData, ThatIsKnownIsNothingToDo) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  EXPECT_EQ(rig_->write_back(), 1);
  image_->memory().checkpoint();
  device_->start_journal();
  for (int i = 0; i < 3; i++) EXPECT_EQ(rig_->write_back(), 0);
  EXPECT_THAT(done(), IsEmpty());
  EXPECT_TRUE(image_->memory().journal().empty());
  EXPECT_TRUE(rig_->writeback->behind(rig_->log->mark()));
}

TEST_P(DamagedDirtyData, IsKeptThroughAttach) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  rig_->write_back();
  rig_->reclaim_all();
  for (int i = 0; i < 3; i++) {
    attach();
    expect_kept();
    EXPECT_EQ(rig_->replayed.dirty_keys, 1u);
    EXPECT_EQ(rig_->verified.dirty_bad, GetParam() ? 1u : 0u);
    rig_->write_back();
    rig_->reclaim_all();
    expect_kept();
  }
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->value(8192), 3);
}

TEST_P(DamagedDirtyData, DoesNotHoldUpWhatComesLater) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  rig_->write_back();
  for (uint32_t i = 10; i < 20; i++) {
    rig_->write(i * 4096, 4096, i);
    rig_->flush();
    rig_->write_back();
    rig_->reclaim_all();
    EXPECT_EQ(rig_->device_value(i * 4096), int(i));
    expect_kept();
  }
  EXPECT_THAT(lost_, ElementsAre(EIO)) << "told once";
  EXPECT_EQ(counters().bad_keys, 1u);
}

TEST_P(DamagedDirtyData, OverwrittenIsNoMatterAnyMore) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  rig_->write_back();
  rig_->write(4096, 4096, 7);
  rig_->flush();
  rig_->write_back();
  EXPECT_EQ(rig_->value(4096), 7);
  EXPECT_EQ(rig_->device_value(4096), 7);
  EXPECT_FALSE(rig_->writeback->behind(rig_->log->mark()));
  attach();
  EXPECT_EQ(rig_->value(4096), 7);
  EXPECT_EQ(rig_->replayed.dirty_keys, 0u);
}

// What is left of a damaged extent must not look sound under a crc of its own, even when the bad
// bit is in the part that was overwritten: nobody can say which bit it was.
TEST_P(DamagedDirtyData, APartIsKeptAsDamaged) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  rig_->write(4096, 512, 9);
  rig_->flush();
  rig_->write_back();
  const auto expect_part = [&] {
    EXPECT_EQ(rig_->value(4096), 9);
    EXPECT_EQ(rig_->device_value(4096), 9);
    EXPECT_EQ(rig_->mapped(4608, 3584), "DDDDDDD");
    for (uint64_t off = 4608; off < 8192; off += 512) {
      EXPECT_EQ(rig_->value(off), Rig::kUnreadable);
      EXPECT_EQ(rig_->device_value(off), Rig::kBacking);
    }
  };
  expect_part();
  for (int i = 0; i < 2; i++) {
    rig_->reclaim_all();
    attach();
    expect_part();
    rig_->write_back();
    expect_part();
  }
}

TEST_P(DamagedDirtyData, IsToldOnceHoweverItIsCutLater) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  rig_->write_back();
  for (uint32_t i = 0; i < 3; i++) {
    rig_->write(4096 + i * 512, 512, 9);
    rig_->flush();
    rig_->write_back();
  }
  rig_->write_back();
  EXPECT_EQ(counters().bad_keys, 1u);
  EXPECT_THAT(lost_, ElementsAre(EIO));
}

// A crash between the second copy of its key and dirty_tail leaves both to be written back; a
// later batch may hold two copies, of which only the last has a piece.
TEST_P(DamagedDirtyData, StaysDirtyWhenTheLogNamesItTwice) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  const CachePos before = dirty_tail();
  EXPECT_TRUE(step().value());
  rig_.reset();
  image_->dirty_tail(before);
  attach();
  EXPECT_EQ(rig_->replayed.dirty_keys, 4u);
  for (uint32_t i = 10; i < 14; i++) {
    rig_->write(i * 4096, 4096, i);
    rig_->flush();
    rig_->write_back();
    SCOPED_TRACE(i);
    expect_kept();
  }
}

using KeyOfOnePlace = WritebackTest;

// A key that names a place with a wrong crc says nothing of a later key of that place.
TEST_F(KeyOfOnePlace, WithAnotherCrcDoesNotMakeTheLaterOneDamaged) {
  start({.data_crc = true});
  const CachePos first = rig_->log->head();
  rig_->write(4096, 4096, 1);
  rig_->flush();
  const media::Key key = rig_->keys_from(first).at(0);
  rig_.reset();
  media::Key wrong = key;
  wrong.data_crc++;
  image_->kset(image_->kset(first, {wrong}), {key});
  attach();
  EXPECT_EQ(rig_->verified.dirty_bad, 0u);
  while (step().value()) {
  }
  EXPECT_EQ(rig_->device_value(4096), 1);
  EXPECT_EQ(rig_->value(4096), 1);
  EXPECT_THAT(rig_->keys_from(dirty_tail()), IsEmpty()) << "nothing is appended again";
  EXPECT_THAT(lost_, IsEmpty());
}

// Nobody waits for space for ever because of it: fills behind it are passed.
TEST_P(DamagedDirtyData, DoesNotKeepCleanDataBehindIt) {
  start();
  write_pages(3);
  rig_->flush();
  spoil(4096);
  rig_->write_back();
  for (uint64_t i = 0; i < 20; i++) rig_->fill((4 << 20) + i * (64 << 10), 64 << 10);
  rig_->flush();
  rig_->write_back();
  rig_->reclaim_all();
  EXPECT_EQ(rig_->mapped(4 << 20, 4096), "........");
  const auto left = rig_->keys_from(rig_->tails.key_tail());
  ASSERT_EQ(left.size(), 1u) << "the damaged extent's";
  EXPECT_EQ(left[0].off, 4096u);
  expect_kept();
}

// A read error, or damage, is not the end of the log, and nothing behind it may pass for clean:
// hazard media-error-is-clean.
class DamagedLog : public WritebackTest {
 protected:
  void start() {
    WritebackTest::start();
    for (uint32_t i = 0; i < 3; i++) {
      at_.push_back(rig_->log->head());
      rig_->write(i * 4096, 4096, i + 1);
      rig_->flush();
    }
    image_->memory().checkpoint();
  }
  void expect_stands(const CachePos& pos, int code) {
    for (int i = 0; i < 2; i++) {
      const auto moved = step();
      ASSERT_FALSE(moved.ok());
      EXPECT_EQ(moved.error().code, code) << moved.error().text;
    }
    EXPECT_EQ(dirty_tail(), pos);
    EXPECT_TRUE(rig_->writeback->behind(rig_->log->mark()));
    EXPECT_TRUE(rig_->dirty(4096));
    EXPECT_TRUE(rig_->dirty(8192));
    EXPECT_THAT(lost_, ElementsAre(EIO));
  }
  std::vector<CachePos> at_;
};

TEST_F(DamagedLog, AKeyWithAWrongBit) {
  start();
  image_->memory().flip_bit(image_->off(at_[1]) + sizeof(media::KsetHeader) + 8);
  EXPECT_TRUE(step().value()) << "the kset before it";
  expect_stands(at_[1], EUCLEAN);
}

TEST_F(DamagedLog, AClearedHeader) {
  start();
  image_->clear_header(at_[1]);
  EXPECT_TRUE(step().value());
  expect_stands(at_[1], EUCLEAN);
  EXPECT_THAT(step_error(), HasSubstr("ends before its head"));
}

TEST_F(DamagedLog, UnreadableMedia) {
  start();
  image_->memory().make_unreadable(image_->off(at_[1]));  // and its neighbours
  const auto moved = step();
  ASSERT_FALSE(moved.ok());
  expect_stands(at_[0], EIO);
  EXPECT_TRUE(rig_->dirty(0));
  EXPECT_THAT(done(), IsEmpty());
}

}  // namespace
}  // namespace pcache
