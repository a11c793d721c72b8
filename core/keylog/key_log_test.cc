// SPDX-License-Identifier: GPL-2.0-or-later
#include "keylog/key_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>
#include <thread>

#include "keylog/log_for_test.h"
#include "testing/crash_states.h"

namespace pcache {
namespace {

using media::kSegDataBytes;
using media::KsetHeader;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Names = std::vector<std::string>;

class LogTest : public ::testing::Test {
 protected:
  // A log whose head stands at `head`, in segment 0.
  void start(CachePos head, uint32_t segments = 4, uint32_t log_reserve = 0) {
    image_ = std::make_unique<Image>(segments);
    from_ = head;
    table_ = image_->table(log_reserve);
    table_->replay_log_segment(head.seg);
    log_ = std::make_unique<KeyLog>(image_->pmem(), *table_, LogMark{head});
    image_->memory().checkpoint();
  }
  // An empty log; its head says that `ksets` ksets were found at attach.
  void start_counting(uint64_t ksets) {
    start({});
    log_ = std::make_unique<KeyLog>(image_->pmem(), *table_, LogMark{{}, ksets});
  }
  Names read() { return read_log(image_->pmem(), *table_, from_); }
  const Journal& journal() { return image_->memory().journal(); }
  MediaOff media(CachePos pos) { return table_->media(pos); }

  std::unique_ptr<Image> image_;
  CachePos from_;
  std::unique_ptr<SegmentTable> table_;
  std::unique_ptr<KeyLog> log_;
};
using KeyLogAppend = LogTest;
using KeyLogRoll = LogTest;
using KeyLogFull = LogTest;
using KeyLogThreads = LogTest;

TEST_F(KeyLogAppend, WhatIsCommittedIsReadBack) {
  start({});
  EXPECT_THAT(read(), IsEmpty());
  for (const uint32_t n : {1u, 128u, 7u}) ASSERT_TRUE(log_->commit(seal_named(*log_, n, n)).ok());
  EXPECT_THAT(read(), ElementsAre("1x1", "128x128", "7x7"));
  EXPECT_EQ(log_->head().off, kset_bytes(1) + kset_bytes(128) + kset_bytes(7));
  EXPECT_EQ(log_->counters().ksets, 3u);
  EXPECT_EQ(log_->counters().groups, 3u);
  EXPECT_EQ(log_->counters().keys, 136u);
}

TEST_F(KeyLogAppend, SealedIsNotYetWritten) {
  start({});
  seal_named(*log_, 1, 1);
  EXPECT_THAT(journal(), IsEmpty());
  EXPECT_THAT(read(), IsEmpty());
}

TEST_F(KeyLogAppend, AGroupTakesTwoFencesWhateverItsSize) {
  for (const uint32_t ksets : {1u, 2u, 5u, 40u}) {
    start({});
    for (uint32_t i = 0; i < ksets; i++) seal_named(*log_, i, kAlone);
    ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
    EXPECT_EQ(count_fences(journal()), 2u) << ksets;
    EXPECT_TRUE(journal().back().fence);
    EXPECT_EQ(read().size(), ksets);
    EXPECT_EQ(log_->counters().groups, 1u);
  }
}

TEST_F(KeyLogAppend, NeighboursThatFitAreOneKset) {
  constexpr uint32_t kFull = media::kKeysPerKset;
  start({});
  seal_named(*log_, 1, 1);
  seal_named(*log_, 2, 3);
  seal_named(*log_, 1, 1);
  seal_named(*log_, 3, kFull);
  seal_named(*log_, 4, kFull - 1);
  seal_named(*log_, 5, 1);
  const auto last = seal_named(*log_, 6, 1);
  ASSERT_TRUE(log_->commit(last).ok());
  EXPECT_THAT(read(), ElementsAre("1x1+2x3+1x1", "3x128", "4x127+5x1", "6x1"));
  EXPECT_EQ(log_->counters().ksets, 4u);
  EXPECT_EQ(log_->counters().keys, 2 * kFull + 6);
  EXPECT_EQ(log_->mark().ksets, 4u);
  EXPECT_FALSE(log_->has_uncommitted());
  // What was emptied is used again: there is memory for no more than these seven.
  std::set<KsetBuffer*> buffers;
  for (int i = 0; i < 7; i++) {
    buffers.insert(log_->get_buffer());
    EXPECT_EQ((*buffers.rbegin())->n, 0u);
  }
  EXPECT_EQ(buffers.size(), 7u);
}

TEST_F(KeyLogAppend, OneKsetOfSeveralHasAtMostAMebibyteOfData) {
  start({});
  for (uint32_t range = 1; range <= 4; range++) {
    KsetBuffer* const kset = log_->get_buffer();
    kset->keys[kset->n++] =
        make_key({range * kRangeBytes, range == 4 ? 2u << 20 : 512u << 10}, {SegId{2}, 0});
    log_->seal(kset);
  }
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  EXPECT_THAT(read(), ElementsAre("1x1+2x1", "3x1", "4x1"));
}

// Only what this thread has not fenced needs no fence of others.
TEST_F(KeyLogAppend, OneKsetIsUnfencedByAllWhoseKeysItHas) {
  const auto who = [](ThreadSerial a, ThreadSerial b) {
    KsetBuffer first, later;
    first.keys[first.n++] = named_keys(1, 1)[0];
    later.keys[later.n++] = named_keys(2, 1)[0];
    first.unfenced_by = a;
    later.unfenced_by = b;
    first.take_keys_of(later);
    EXPECT_EQ(first.n, 2u);
    EXPECT_EQ(range_of(first.keys[1].off), 2u);
    EXPECT_EQ(later.n, 0u);
    return first.unfenced_by;
  };
  constexpr auto kNobody = KsetBuffer::kNobody, kSeveral = KsetBuffer::kSeveral;
  EXPECT_EQ(who(kNobody, kNobody), kNobody);
  EXPECT_EQ(who(7, kNobody), 7u);
  EXPECT_EQ(who(kNobody, 7), 7u);
  EXPECT_EQ(who(7, 7), 7u);
  EXPECT_EQ(who(7, 8), kSeveral);
  EXPECT_EQ(who(kSeveral, 8), kSeveral);
  EXPECT_EQ(who(8, kSeveral), kSeveral);
}

TEST_F(KeyLogRoll, TheLastKsetOfASegmentTakesWhatFitsThere) {
  start({SegId{0}, kSegDataBytes - kset_bytes(3) - uint32_t{sizeof(KsetHeader)}});
  for (uint32_t i = 1; i <= 5; i++) seal_named(*log_, i, 1);
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  EXPECT_THAT(read(), ElementsAre("1x1+2x1+3x1", "LAST", "4x1+5x1"));
}

TEST_F(KeyLogAppend, ACommitOfWhatIsDurableDoesNothing) {
  start({});
  const auto ticket = seal_named(*log_, 1, 1);
  ASSERT_TRUE(log_->commit(ticket).ok());
  const size_t events = journal().size();
  ASSERT_TRUE(log_->commit(ticket).ok());
  ASSERT_TRUE(log_->commit(0).ok());
  EXPECT_EQ(journal().size(), events);
}

// Hazard stale-kset: the header behind the group is cleared, a fence follows, and then the group's
// first header is stored.
TEST_F(KeyLogAppend, TheNextHeaderIsClearedAndFencedBeforeTheFirstIsStored) {
  for (const uint32_t ksets : {1u, 3u}) {
    start({});
    for (uint32_t i = 0; i < ksets; i++) seal_named(*log_, i, 2);
    ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
    const size_t clear = find_store(journal(), media(log_->head()));
    const size_t first = find_store(journal(), media(from_));
    ASSERT_LT(clear, first);
    ASSERT_LT(first, journal().size());
    EXPECT_GE(count_fences(journal(), clear, first), 1u);
    EXPECT_GE(count_fences(journal(), first), 1u);
  }
}

TEST_F(KeyLogAppend, AnAttachClearsATornHeaderAtTheHead) {
  Image image(4);
  KsetHeader torn = make_last_kset(SegId{1});
  torn.crc ^= 1;
  image.memory().poke(segment_data_off(0) + 640, torn);
  const auto table = image.table();
  KeyLog log(image.pmem(), *table, LogMark{{SegId{0}, 640}});
  EXPECT_TRUE(image.memory().journal().empty()) << "before it is told to";
  log.clear_head();
  EXPECT_EQ(image.memory().peek<KsetHeader>(segment_data_off(0) + 640).magic, 0u);
  EXPECT_TRUE(all_durable(image.memory().journal()));
}

TEST_F(KeyLogRoll, AKsetThatExactlyFitsStaysAndTheNextRolls) {
  start({SegId{0}, kSegDataBytes - kset_bytes(2) - uint32_t{sizeof(KsetHeader)}});
  ASSERT_TRUE(log_->commit(seal_named(*log_, 10, 2)).ok());
  EXPECT_EQ(log_->head(), (CachePos{SegId{0}, kSegDataBytes - uint32_t{sizeof(KsetHeader)}}));
  EXPECT_THAT(read(), ElementsAre("10x2"));
  ASSERT_TRUE(log_->commit(seal_named(*log_, 11, 1)).ok());
  EXPECT_EQ(log_->head(), (CachePos{SegId{1}, kset_bytes(1)}));
  EXPECT_THAT(read(), ElementsAre("10x2", "LAST", "11x1"));
}

TEST_F(KeyLogRoll, OneKeyTooManyRolls) {
  start({SegId{0}, kSegDataBytes - kset_bytes(2) - uint32_t{sizeof(KsetHeader)} + 8});
  ASSERT_TRUE(log_->commit(seal_named(*log_, 10, 2)).ok());
  EXPECT_THAT(read(), ElementsAre("LAST", "10x2"));
  EXPECT_EQ(log_->counters().rolls, 1u);
}

TEST_F(KeyLogRoll, AGroupThatRollsStillTakesTwoFences) {
  start({SegId{0}, kSegDataBytes - 2 * kset_bytes(kAlone)});
  for (uint32_t i = 0; i < 4; i++) seal_named(*log_, i, kAlone);
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  EXPECT_EQ(count_fences(journal()), 2u);
  EXPECT_THAT(read(), ElementsAre("0x65", "LAST", "1x65", "2x65", "3x65"));
}

TEST_F(KeyLogRoll, ChainsThroughManySegments) {
  constexpr uint32_t kFull = media::kKeysPerKset;
  start({}, 5);
  image_->memory().set_recording(false);
  const uint32_t per_segment = (kSegDataBytes - sizeof(KsetHeader)) / kset_bytes(kFull);
  const uint32_t ksets = 4 * per_segment + 1;
  for (uint32_t i = 0; i < ksets; i++) {
    seal_named(*log_, i % 1000, kFull);
    if (i % 100 == 0) {
      ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
    }
  }
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());
  EXPECT_EQ(log_->counters().rolls, 4u);
  EXPECT_EQ(log_->head().seg, SegId{4});
  const Names found = read();
  EXPECT_EQ(found.size(), ksets + 4u);
  EXPECT_EQ(std::count(found.begin(), found.end(), "LAST"), 4);
}

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

TEST_F(KeyLogFull, ENOSPCKeepsWhatIsSealedForLater) {
  start({SegId{0}, kSegDataBytes - kset_bytes(1) - uint32_t{sizeof(KsetHeader)}}, 2);
  const SegId data = *table_->take_for_data();
  const auto fits = seal_named(*log_, 1, 1);
  const auto too_many = seal_named(*log_, 2, 1);
  const Status full = log_->commit(too_many);
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.error().code, ENOSPC);
  EXPECT_THAT(full.error().text, HasSubstr("cache full"));
  EXPECT_TRUE(log_->commit(fits).ok()) << "what had room is durable";
  EXPECT_THAT(read(), ElementsAre("1x1"));

  const size_t events = journal().size();
  seal_named(*log_, 3, 1);
  EXPECT_FALSE(log_->commit(too_many).ok());
  EXPECT_EQ(journal().size(), events) << "a try without room writes nothing";

  table_->finish_filling(data, 0);
  seal_named(*log_, 4, 1);
  EXPECT_TRUE(log_->commit(log_->last_sealed()).ok());
  EXPECT_THAT(read(), ElementsAre("1x1", "LAST", "2x1+3x1+4x1"));
  EXPECT_TRUE(log_->commit(too_many).ok());
}

TEST_F(KeyLogFull, BuffersAreUsedAgain) {
  start({});
  KsetBuffer* first = log_->get_buffer();
  first->keys[first->n++] = named_keys(1, 1)[0];
  ASSERT_TRUE(log_->commit(log_->seal(first)).ok());
  KsetBuffer* again = log_->get_buffer();
  EXPECT_EQ(again, first);
  EXPECT_EQ(again->n, 0u);
  EXPECT_EQ(again->next, nullptr);
}

TEST_F(KeyLogThreads, EveryCommitIsDurableOnReturnAndOrderIsKept) {
  constexpr uint32_t kThreads = 3, kEach = 300;
  start({});
  image_->memory().set_recording(false);
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; t++)
    threads.emplace_back([&, t] {
      for (uint32_t i = 0; i < kEach; i++) {
        const auto ticket = seal_named(*log_, t * kEach + i, 1 + i % media::kKeysPerKset);
        if (i % 4 != 3) {
          ASSERT_TRUE(log_->commit(ticket).ok());
        }
      }
    });
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(log_->commit(log_->last_sealed()).ok());

  std::vector<uint32_t> next(kThreads);
  for (const std::string& kset : read()) {
    std::istringstream runs(kset);
    for (std::string run; std::getline(runs, run, '+');) {
      const unsigned long name = std::stoul(run);
      uint32_t& i = next[name / kEach];
      ASSERT_EQ(name % kEach, i);
      EXPECT_EQ(run.substr(run.find('x') + 1), std::to_string(1 + i % media::kKeysPerKset));
      i++;
    }
  }
  for (uint32_t t = 0; t < kThreads; t++) EXPECT_EQ(next[t], kEach);
}

TEST_F(KeyLogAppend, EpochsAreCountedInKsets) {
  start_counting(3);  // ksets that replay found: each is an epoch
  EXPECT_EQ(log_->epoch_end_after(0), 1u);
  EXPECT_EQ(log_->epoch_end_after(2), 3u);
  EXPECT_EQ(log_->epoch_end_after(3), UINT64_MAX);
  log_->end_epoch();
  EXPECT_EQ(log_->epoch_end_after(3), UINT64_MAX) << "an epoch without ksets is none";
  for (uint32_t i = 0; i < 4; i++) ASSERT_TRUE(log_->commit(seal_named(*log_, i, 2)).ok());
  log_->end_epoch();
  log_->end_epoch();
  ASSERT_TRUE(log_->commit(seal_named(*log_, 4, 2)).ok());
  EXPECT_EQ(log_->epoch_end_after(3), 7u);
  EXPECT_EQ(log_->epoch_end_after(6), 7u);
  EXPECT_EQ(log_->epoch_end_after(7), UINT64_MAX);
  log_->end_epoch();
  EXPECT_EQ(log_->epoch_end_after(7), 8u);
}

TEST_F(KeyLogAppend, TheMarkCountsKsetsAndDirtyBytes) {
  start_counting(3);
  KsetBuffer* kset = log_->get_buffer();
  for (const media::Key& key : named_keys(1, 3)) kset->keys[kset->n++] = key;
  kset->keys[1].flags = media::kKeyClean;
  ASSERT_TRUE(log_->commit(log_->seal(kset)).ok());
  const LogMark mark = log_->mark();
  EXPECT_EQ(mark.ksets, 4u);
  EXPECT_EQ(mark.dirty_bytes, 2u * kSectorBytes);
  EXPECT_EQ(mark.pos, log_->head());
}

// A page that is bad under the kset that is appended, or under the header behind it.
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
