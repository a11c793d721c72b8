// SPDX-License-Identifier: GPL-2.0-or-later
// What a crash, or a bad page, leaves of a log.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>

#include "keylog/log_for_test.h"
#include "testing/crash_states.h"

namespace pcache {
namespace {

using media::kSegDataBytes;
using media::KsetHeader;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Valid ksets of the log's earlier life are at all places where a reader could find them.
class KeyLogCrash : public LogTest {
 protected:
  static constexpr uint32_t kStale = 900;

  void plant_stale(CachePos at, const std::vector<uint32_t>& sizes) {
    for (const uint32_t n : sizes) at = image_->kset(at, named_keys(kStale, n));
  }
  // Checks in each crash state: all acknowledged ksets are there, of the group all or none, no
  // stale one; the log attaches and takes the next kset.
  void check_all_crashes(const Names& acknowledged, const Names& with_group,
                         const CrashOptions& options) {
    int nothing = 0, all = 0, failures = 0;
    for_each_crash_state(
        journal(), options, [&](std::span<const KeptStore> kept, const std::string& what) {
          if (failures >= 3) return;
          const auto image = image_->memory().crash_image(kept);
          const auto table = image_->table(image->pmem(), 0);
          CachePos end;
          Names found = read_log(image->pmem(), *table, from_, &end);
          if (!found.empty() && found.back() == "torn") found.pop_back();
          if (found != acknowledged && found != with_group) {
            failures++;
            ADD_FAILURE() << what << ": found " << ::testing::PrintToString(found);
            return;
          }
          (found == with_group ? all : nothing)++;
          table->replay_log_segment(end.seg);
          KeyLog log(image->pmem(), *table, LogMark{end});
          log.clear_head();
          ASSERT_TRUE(log.commit(seal_named(log, 77, 1)).ok());
          Names later = read_log(image->pmem(), *table, from_);
          ASSERT_GT(later.size(), found.size()) << what;
          EXPECT_TRUE(std::equal(found.begin(), found.end(), later.begin())) << what;
          EXPECT_EQ(later.back(), "77x1") << what;
        });
    EXPECT_GT(nothing, 0);
    EXPECT_GT(all, 0);
  }
  void check_all_crashes(const Names& acknowledged, const Names& with_group) {
    check_all_crashes(acknowledged, with_group, {});
    check_all_crashes(acknowledged, with_group, {.samples = 100, .seed = 7});
  }
};

TEST_F(KeyLogCrash, OneKset) {
  start({});
  plant_stale(from_, {1, 1, 1, 1, 1, 1});
  image_->clear_header(from_);
  ASSERT_TRUE(log_->commit(seal_named(*log_, 1, 1)).ok());
  image_->memory().checkpoint();
  ASSERT_TRUE(log_->commit(seal_named(*log_, 2, 1)).ok());
  check_all_crashes({"1x1"}, {"1x1", "2x1"});
}

TEST_F(KeyLogCrash, AGroupOverStaleKsetsOfTheSameShape) {
  start({});
  plant_stale(from_, {2, kAlone, kAlone + 1, kAlone, 1, 1, 1});
  image_->clear_header(from_);
  ASSERT_TRUE(log_->commit(seal_named(*log_, 1, 2)).ok());
  image_->memory().checkpoint();
  for (const uint32_t name : {2u, 3u, 4u}) seal_named(*log_, name, kAlone + (name == 3));
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  check_all_crashes({"1x2"}, {"1x2", "2x65", "3x66", "4x65"});
}

TEST_F(KeyLogCrash, KsetsThatAreOneOnMedia) {
  start({});
  plant_stale(from_, {2, 1, 3, 1, 1, 1});
  image_->clear_header(from_);
  ASSERT_TRUE(log_->commit(seal_named(*log_, 1, 2)).ok());
  image_->memory().checkpoint();
  for (const auto& [name, n] : {std::pair{2u, 1u}, {3u, 3u}, {4u, 1u}}) seal_named(*log_, name, n);
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  check_all_crashes({"1x2"}, {"1x2", "2x1+3x3+4x1"});
}

TEST_F(KeyLogCrash, AGroupThatRollsInItsMiddleOntoStaleKsets) {
  const uint32_t end = sizeof(KsetHeader);
  start({SegId{0}, kSegDataBytes - kset_bytes(1) - kset_bytes(2) - end});
  plant_stale({SegId{1}, 0}, {3, 1, 1, 1});
  ASSERT_TRUE(log_->commit(seal_named(*log_, 1, 1)).ok());
  image_->memory().checkpoint();
  for (const auto& [name, n] : {std::pair{2u, 2u}, {3u, 3u}}) seal_named(*log_, name, n);
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  check_all_crashes({"1x1"}, {"1x1", "2x2", "LAST", "3x3"});
}

// The first header of this group is that of a LAST kset.
TEST_F(KeyLogCrash, AGroupThatBeginsWithItsRoll) {
  start({SegId{0}, kSegDataBytes - kset_bytes(1) - uint32_t{sizeof(KsetHeader)}});
  plant_stale({SegId{1}, 0}, {3, 1, 1, 1});
  ASSERT_TRUE(log_->commit(seal_named(*log_, 1, 1)).ok());
  image_->memory().checkpoint();
  seal_named(*log_, 2, 3);
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  check_all_crashes({"1x1"}, {"1x1", "LAST", "2x3"});
}

// Shows that the test above can fail: without the fence between the cleared header and the kset, a
// crash brings the stale kset back.
TEST_F(KeyLogCrash, TheTestSeesAMissingFence) {
  start({});
  plant_stale(from_, {1, 1, 1});
  image_->clear_header(from_);
  image_->memory().checkpoint();
  ASSERT_TRUE(log_->commit(seal_named(*log_, 2, 1)).ok());
  Journal without;
  size_t fences = 0;
  for (const PmemEvent& event : journal())
    if (!event.fence || fences++ > 0) without.push_back(event);
  int stale = 0;
  for_each_crash_state(without, {}, [&](std::span<const KeptStore> kept, const std::string&) {
    const auto image = image_->memory().crash_image(kept);
    for (const auto& name : read_log(image->pmem(), *table_, from_)) stale += name == "900x1";
  });
  EXPECT_GT(stale, 0);
}

class KeyLogBadPage : public KeyLogCrash {
 protected:
  static constexpr uint32_t kPage = 4096;
  void make_bad(CachePos pos) { image_->memory().make_bad(media(pos)); }
  Status append(uint32_t name, uint32_t n) { return log_->commit(seal_named(*log_, name, n)); }
};

TEST_F(KeyLogBadPage, TheLogGoesOnElsewhere) {
  start({SegId{0}, kPage - 256});
  ASSERT_TRUE(append(1, 1).ok());
  make_bad({SegId{0}, kPage});
  ASSERT_TRUE(append(2, 20).ok());
  ASSERT_TRUE(append(3, 1).ok());
  EXPECT_THAT(read(), ElementsAre("1x1", "LAST", "2x20", "3x1"));
  EXPECT_EQ(log_->head().seg, SegId{1});
  EXPECT_EQ(table_->counts().retired, 1u);
  table_->release_log(SegId{0});
  for (int i = 0; i < 2; i++) EXPECT_NE(table_->take_for_log(), SegId{0});
  EXPECT_FALSE(table_->take_for_log());
}

// The header behind the kset would be the head, from where the log could not go on.
TEST_F(KeyLogBadPage, AKsetThatEndsInFrontOfOneIsNotAppendedThere) {
  for (const uint32_t gap : {0u, 8u, 16u}) {  // of the header, in front of the page
    start({SegId{0}, kPage - gap - kset_bytes(2)});
    make_bad({SegId{0}, kPage});
    ASSERT_TRUE(append(1, 2).ok()) << gap;
    EXPECT_THAT(read(), ElementsAre("LAST", "1x2")) << gap;
  }
  start({SegId{0}, kPage - 24 - kset_bytes(2)});
  make_bad({SegId{0}, kPage});
  ASSERT_TRUE(append(1, 2).ok());
  EXPECT_THAT(read(), ElementsAre("1x2")) << "the header is on the good page";
  ASSERT_TRUE(append(2, 1).ok());
  EXPECT_THAT(read(), ElementsAre("1x2", "LAST", "2x1"));
}

// The lost kset and the LAST kset are stored to the same place.
TEST_F(KeyLogBadPage, AFenceIsBetweenWhatWasLostAndTheLastKset) {
  for (const uint32_t before : {0u, 1u}) {  // ksets of the group in front of it
    start({SegId{0}, kPage - 256 - before * kset_bytes(kAlone)});
    make_bad({SegId{0}, kPage});
    if (before) seal_named(*log_, 1, kAlone);
    ASSERT_TRUE(append(2, kAlone).ok());
    const MediaOff flags = media({SegId{0}, kPage - 256}) + offsetof(KsetHeader, flags);
    const size_t lost = find_store(journal(), flags);
    const size_t last = find_store(journal(), flags, lost + 1);
    ASSERT_LT(last, journal().size());
    EXPECT_GE(count_fences(journal(), lost, last), 1u);
  }
}

TEST_F(KeyLogBadPage, EveryCrashLeavesAllOfAGroupOrNothing) {
  start({SegId{0}, kPage - 192 - kset_bytes(kAlone) - kset_bytes(1)});
  plant_stale({SegId{1}, 0}, {kAlone, 1, 1, 1});
  ASSERT_TRUE(append(1, 1).ok());
  image_->memory().checkpoint();
  make_bad({SegId{0}, kPage});
  for (const uint32_t name : {2u, 3u, 4u}) seal_named(*log_, name, kAlone);
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  check_all_crashes({"1x1"}, {"1x1", "2x65", "LAST", "3x65", "4x65"});
}

TEST_F(KeyLogBadPage, KsetsThatAreOneOnMediaGoElsewhereTogether) {
  start({SegId{0}, kPage - 296 - kset_bytes(1)});
  plant_stale({SegId{1}, 0}, {23, 1, 1, 1});
  ASSERT_TRUE(append(1, 1).ok());
  image_->memory().checkpoint();
  make_bad({SegId{0}, kPage});
  for (const auto& [name, n] : {std::pair{2u, 2u}, {3u, 20u}, {4u, 1u}}) seal_named(*log_, name, n);
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  check_all_crashes({"1x1"}, {"1x1", "LAST", "2x2+3x20+4x1"});
}

// The log cannot go on from a bad head: what was acknowledged is there, and the error stays.
TEST_F(KeyLogBadPage, UnderTheHeadTheLogHasFailed) {
  start({SegId{0}, 640});
  ASSERT_TRUE(append(1, 1).ok());
  int said = 0;
  log_->set_on_failed([&said](const Error& error) {
    said++;
    EXPECT_THAT(error.text, HasSubstr("log at segment 0:704"));
  });
  make_bad({SegId{0}, 640});
  const auto acknowledged = log_->last_sealed();
  EXPECT_EQ(append(2, 1).error().code, EIO);
  EXPECT_TRUE(log_->failed());
  EXPECT_EQ(append(3, 1).error().code, EIO);
  EXPECT_EQ(said, 1);
  EXPECT_TRUE(log_->commit(acknowledged).ok()) << "that is durable";
  EXPECT_EQ(log_->head(), (CachePos{SegId{0}, 640 + kset_bytes(1)}));
  EXPECT_TRUE(log_->has_uncommitted());
}

// Background work asks for these with each batch, and must neither wait for who appends nor
// interrupt it. The log's lock is held while it says that it has failed.
TEST_F(KeyLogBadPage, TheMarkAndEpochsAreReadWhileAnotherAppends) {
  start({SegId{0}, 640});
  ASSERT_TRUE(append(1, 1).ok());
  log_->end_epoch();
  const LogMark before = log_->mark();
  bool read = false;
  std::future<void> reading;
  log_->set_on_failed([&](const Error&) {
    reading = std::async(std::launch::async, [&] {
      EXPECT_EQ(log_->mark().pos, before.pos);
      EXPECT_EQ(log_->last_epoch_from(), before.ksets);
      EXPECT_TRUE(log_->has_uncommitted());
    });
    read = reading.wait_for(std::chrono::minutes(1)) == std::future_status::ready;
  });
  make_bad({SegId{0}, 640});
  EXPECT_EQ(append(2, 1).error().code, EIO);
  EXPECT_TRUE(read);
}

TEST_F(KeyLogBadPage, WithNoOtherSegmentTheLogHasFailed) {
  start({SegId{0}, kPage - 256}, 3);
  for (const uint32_t seg : {1u, 2u}) make_bad({SegId{seg}, kPage});
  make_bad({SegId{0}, kPage});
  EXPECT_EQ(append(1, 20).error().code, EIO);
  EXPECT_TRUE(log_->failed());
  EXPECT_EQ(table_->counts().retired, 3u);
}

TEST_F(KeyLogBadPage, AHeadThatCannotBeClearedAtAttach) {
  Image image(4);
  image.memory().make_bad(segment_data_off(0));
  const auto table = image.table();
  KeyLog log(image.pmem(), *table, LogMark{});
  log.clear_head();
  EXPECT_TRUE(log.failed());
}

}  // namespace
}  // namespace pcache
