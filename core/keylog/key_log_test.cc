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

TEST_F(KeyLogAppend, EachKsetSaysWhetherAnEpochBeginsWithIt) {
  start_counting(3);
  EXPECT_EQ(log_->last_epoch_from(), 3u);
  log_->end_epoch();
  EXPECT_EQ(log_->last_epoch_from(), 3u) << "an epoch without ksets is none";
  for (uint32_t i = 0; i < 4; i++) ASSERT_TRUE(log_->commit(seal_named(*log_, i, 2)).ok());
  log_->end_epoch();
  log_->end_epoch();
  EXPECT_EQ(log_->last_epoch_from(), 7u);
  // A full one has its header already, and one of a group is the first of its epoch.
  seal_named(*log_, 4, media::kKeysPerKset);
  ASSERT_TRUE(log_->commit(seal_named(*log_, 5, media::kKeysPerKset)).ok());
  log_->end_epoch();
  seal_named(*log_, 6, kAlone);
  ASSERT_TRUE(log_->commit(seal_named(*log_, 7, kAlone)).ok());
  LogCursor cursor(image_->pmem(), *table_, from_);
  std::string epochs;
  for (;;) {
    const auto item = cursor.next();
    ASSERT_TRUE(item.ok()) << item.error().text;
    if (item.value().kind == LogItem::Kind::kEnd) break;
    epochs += item.value().same_epoch ? "-" : "|";
  }
  EXPECT_EQ(epochs, "|---|-|-");
}

TEST_F(KeyLogAppend, OneKsetSaysWhatIsNotNeeded) {
  start_counting(3);
  const CachePos first = log_->head();
  ASSERT_TRUE(log_->commit(seal_named(*log_, 0, 2)).ok());
  const CachePos end = log_->head();
  const PassStatement statement{end, 7};
  EXPECT_TRUE(log_->state_passable({first, 1}, 3));
  EXPECT_TRUE(log_->state_passable(statement, 3)) << "the later one counts";
  EXPECT_TRUE(log_->has_unstated());
  seal_named(*log_, 1, kAlone);
  ASSERT_TRUE(log_->commit(seal_named(*log_, 2, kAlone)).ok());
  EXPECT_FALSE(log_->has_unstated());
  log_->end_epoch();
  EXPECT_FALSE(log_->state_passable(statement, 5)) << "of an epoch that is over";
  EXPECT_TRUE(log_->state_passable(statement, 6));
  ASSERT_TRUE(log_->commit(seal_named(*log_, 3, media::kKeysPerKset)).ok());
  LogCursor cursor(image_->pmem(), *table_, from_);
  std::string said;
  for (;;) {
    const auto item = cursor.next();
    ASSERT_TRUE(item.ok()) << item.error().text;
    if (item.value().kind == LogItem::Kind::kEnd) break;
    said += item.value().same_epoch ? "-" : "|";
    if (item.value().passes) said += *item.value().passes == statement ? "P" : "?";
  }
  EXPECT_EQ(said, "|-P-|P");
}

// The log may be full, or its segment, when a kset with a header is to be appended: it may stand
// elsewhere later, behind a barrier.
TEST_F(KeyLogAppend, AKsetThatHadToWaitSaysItAsWell) {
  start({SegId{0}, media::kSegDataBytes - 4096}, 2);
  SegmentTable& table = *table_;
  const auto taken = table.take_for_log();
  ASSERT_TRUE(taken.has_value());
  const KeyLog::Ticket ticket = seal_named(*log_, 1, media::kKeysPerKset);
  ASSERT_EQ(log_->commit(ticket).error().code, ENOSPC);
  log_->end_epoch();
  table.release_log(*taken);
  ASSERT_TRUE(log_->commit(seal_named(*log_, 2, media::kKeysPerKset)).ok());
  EXPECT_EQ(read(), (Names{"LAST", "1x128", "2x128"}));
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
}  // namespace
}  // namespace pcache
