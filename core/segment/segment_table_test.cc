// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/segment_table.h"

#include <gtest/gtest.h>

#include <thread>

#include "testing/crash_states.h"
#include "testing/image.h"

namespace pcache {
namespace {

using media::SegmentGen;

class Segments : public ::testing::Test {
 protected:
  uint64_t durable_generation(uint32_t physical) {
    Replicated<SegmentGen> record(segment_gen_place(physical));
    const auto gen = record.load(image_.pmem());
    return gen ? gen->gen : ~0ull;
  }
  Image image_{6};
};

TEST_F(Segments, NextFitGoesRoundAndStopsAtTheReserve) {
  const auto table = image_.table(2);
  for (uint32_t i = 0; i < 4; i++) EXPECT_EQ(table->take_for_data(), SegId{i});
  EXPECT_FALSE(table->take_for_data()) << "the last two are the log's";
  EXPECT_EQ(table->take_for_log(), SegId{4});
  table->finish_filling(SegId{1}, 0);
  table->finish_filling(SegId{2}, 0);  // free: 1, 2, 5; the search goes on behind 4
  EXPECT_EQ(table->take_for_data(), SegId{5});
  EXPECT_FALSE(table->take_for_data());
  EXPECT_EQ(table->take_for_log(), SegId{1});
}

TEST_F(Segments, CountsAddUp) {
  const auto table = image_.table(2);
  ASSERT_TRUE(table->take_for_log());
  ASSERT_TRUE(table->take_for_data());
  const SegmentCounts counts = table->counts();
  EXPECT_EQ(counts.total, 6u);
  EXPECT_EQ(counts.free, 4u);
  EXPECT_EQ(counts.log, 1u);
  EXPECT_EQ(counts.data, 1u);
  EXPECT_EQ(counts.log_reserve, 2u);
}

TEST_F(Segments, TheLogMayTakeTheLastOne) {
  const auto table = image_.table(6);
  EXPECT_FALSE(table->take_for_data());
  for (int i = 0; i < 6; i++) EXPECT_TRUE(table->take_for_log());
  EXPECT_FALSE(table->take_for_log());
}

TEST_F(Segments, TheBiasKeepsAFillingSegment) {
  const auto table = image_.table(0);
  const SegId seg = *table->take_for_data();
  table->drop_refs(seg);  // a place that no key names
  EXPECT_EQ(table->generation(seg), 0u);
  table->finish_filling(seg, 1);
  EXPECT_EQ(table->generation(seg), 1u) << "the one place was given back: freed with the bias";
}

TEST_F(Segments, TheLastReferenceFreesIt) {
  const auto table = image_.table(0);
  const SegId seg = *table->take_for_data();
  table->add_refs(seg, 2);        // one place, but three keys
  table->finish_filling(seg, 1);  // 1 + 2 references stand
  table->drop_refs(seg, 2);
  EXPECT_EQ(table->counts().data, 1u);
  table->drop_refs(seg);
  EXPECT_EQ(table->counts().data, 0u);
  EXPECT_EQ(table->generation(seg), 1u);
  EXPECT_EQ(durable_generation(0), 1u);
}

// If it wrapped, keys of generation 0, which were dead, would count again, and references that were
// never taken would be dropped.
TEST_F(Segments, AGenerationDoesNotWrap) {
  image_.generation(SegId{0}, UINT64_MAX);
  const auto table = image_.table(0);
  const SegId seg = *table->take_for_data();
  ASSERT_EQ(seg, SegId{0});
  table->finish_filling(seg, 1);
  table->drop_refs(seg);
  EXPECT_EQ(table->generation(seg), UINT64_MAX);
  EXPECT_EQ(durable_generation(0), UINT64_MAX);
  EXPECT_EQ(table->counts().data, 1u);
  for (uint32_t i = 1; i < table->size(); i++) EXPECT_NE(table->take_for_data(), seg);
  EXPECT_FALSE(table->take_for_data());
}

// Hazard reuse-before-durable: in every crash state in which a segment was handed out again its new
// generation is durable. The test marks in the journal when it was handed out: by a store of its
// own into the segment's data area.
TEST_F(Segments, TheGenerationIsDurableBeforeReuse) {
  const auto table = image_.table(0);
  const SegId seg = *table->take_for_data();
  table->finish_filling(seg, 0);
  for (int i = 0; i < 5; i++) ASSERT_NE(table->take_for_data(), seg);
  ASSERT_EQ(table->take_for_data(), seg);
  const uint64_t mark = 1;
  EXPECT_TRUE(image_.pmem().store(table->media({seg, 0}), &mark, sizeof mark));

  const Journal& journal = image_.memory().journal();
  const size_t gen = find_store(journal, segment_gen_place(seg.v).base);
  const size_t reuse = find_store(journal, table->media({seg, 0}));
  ASSERT_LT(gen, reuse);
  EXPECT_GE(count_fences(journal, gen, reuse), 1u);
  for_each_crash_state(journal, {}, [&](std::span<const KeptStore> kept, const std::string& what) {
    const auto crashed = image_.memory().crash_image(kept);
    const bool reused = crashed->peek<uint64_t>(table->media({seg, 0})) == mark;
    const uint64_t seen = image_.table(crashed->pmem())->generation(seg);
    EXPECT_LE(seen, 1u) << what;
    if (reused) {
      EXPECT_EQ(seen, 1u) << what;
    }
  });
}

TEST_F(Segments, GenerationsAreLoadedAndTornOnesCounted) {
  image_.generation(SegId{2}, 7);  // to slot 0, as slot 1 has the format's
  image_.generation(SegId{3}, 9);
  image_.memory().flip_bit(segment_gen_place(3).base + offsetof(SegmentGen, gen));  // the newest
  for (const uint64_t slot : {0, 16})
    image_.memory().flip_bit(segment_gen_place(4).base + slot + offsetof(SegmentGen, gen));
  const auto table = image_.table();
  EXPECT_EQ(table->generation(SegId{2}), 7u);
  EXPECT_EQ(table->generation(SegId{3}), 0u) << "the older replica stands";
  EXPECT_EQ(table->generation(SegId{4}), 0u);
  EXPECT_EQ(table->torn_records(), 1u);
}

TEST_F(Segments, MediaFollowsTheChain) {
  SegmentTable table(image_.pmem(), {{5, 3, 0}, 0});
  EXPECT_EQ(table.media({SegId{0}, 512}), segment_data_off(5) + 512);
  EXPECT_EQ(table.media({SegId{1}, 0}), segment_data_off(3));
  const SegId seg = *table.take_for_data();
  table.finish_filling(seg, 0);
  EXPECT_EQ(durable_generation(5), 1u);
  EXPECT_EQ(durable_generation(0), 0u);
}

TEST_F(Segments, ReplayTakesUseAndReferences) {
  const auto table = image_.table(0);
  table->replay_log_segment(SegId{0});
  EXPECT_FALSE(table->replay_key(SegId{0})) << "a log segment";
  EXPECT_FALSE(table->holds_keys(SegId{2}));
  EXPECT_TRUE(table->replay_key(SegId{2}));
  EXPECT_TRUE(table->replay_key(SegId{2}));
  EXPECT_TRUE(table->holds_keys(SegId{2}));
  EXPECT_EQ(table->counts().data, 1u);
  EXPECT_EQ(table->take_for_data(), SegId{1});
  EXPECT_EQ(table->take_for_data(), SegId{3});
  table->drop_refs(SegId{2}, 2);
  EXPECT_EQ(table->generation(SegId{2}), 1u);
}

TEST_F(Segments, RaisedGenerationsAreWrittenOnlyByPersistRaised) {
  const auto table = image_.table();
  table->raise_generation(SegId{3}, 5);
  table->raise_generation(SegId{3}, 6);
  EXPECT_EQ(table->generation(SegId{3}), 6u);
  EXPECT_TRUE(image_.memory().journal().empty());
  table->persist_raised();
  EXPECT_EQ(durable_generation(3), 6u);
  EXPECT_EQ(durable_generation(2), 0u);
  const size_t events = image_.memory().journal().size();
  EXPECT_EQ(events, 2u) << "one store, one fence";
  EXPECT_TRUE(all_durable(image_.memory().journal()));
  table->persist_raised();
  EXPECT_EQ(image_.memory().journal().size(), events) << "once only";
}

TEST_F(Segments, TakingAndFreeingAreEvents) {
  const auto table = image_.table(2);
  int taken = 0, freed = 0;
  table->set_events({[&](SegId) { taken++; }, [&] { freed++; }});
  const SegId log = *table->take_for_log();
  const SegId data = *table->take_for_data();
  EXPECT_EQ(taken, 2);
  EXPECT_EQ(freed, 0);
  table->add_refs(data, 1);
  table->finish_filling(data, 1);
  table->drop_refs(data);
  EXPECT_EQ(freed, 0) << "a key still names it";
  table->drop_refs(data);
  EXPECT_EQ(freed, 1);
  table->release_log(log);
  EXPECT_EQ(freed, 2);
  EXPECT_EQ(taken, 2);
}

TEST_F(Segments, WhatCannotBeTakenIsNoEvent) {
  const auto table = image_.table(6);
  int taken = 0;
  table->set_events({[&](SegId) { taken++; }, {}});
  EXPECT_FALSE(table->take_for_data());
  EXPECT_EQ(taken, 0);
  table->set_events({});
  EXPECT_TRUE(table->take_for_log());
  EXPECT_EQ(taken, 0);
}

// The callback runs without the table's lock, and sees the new counts.
TEST_F(Segments, AnEventMayAskTheTable) {
  const auto table = image_.table(0);
  std::vector<uint32_t> free;
  const auto ask = [&] { free.push_back(table->counts().free); };
  table->set_events({[&](SegId) { ask(); }, ask});
  const SegId seg = *table->take_for_data();
  table->finish_filling(seg, 0);
  table->release_log(*table->take_for_log());
  EXPECT_EQ(free, (std::vector<uint32_t>{5, 6, 5, 6}));
}

TEST_F(Segments, AFreedSegmentIsRaisedBeforeTheEvent) {
  const auto table = image_.table(0);
  const SegId seg = *table->take_for_data();
  uint64_t seen = 0;
  table->set_events({{}, [&] { seen = durable_generation(seg.v); }});
  table->finish_filling(seg, 0);
  EXPECT_EQ(seen, 1u);
}

TEST_F(Segments, ALogSegmentGoesBackWithoutAChangeOnMedia) {
  const auto table = image_.table(2);
  table->replay_log_segment(SegId{0});
  const SegId seg = *table->take_for_log();
  EXPECT_EQ(table->counts().log, 2u);
  table->release_log(SegId{0});
  EXPECT_EQ(table->counts().log, 1u);
  EXPECT_EQ(table->counts().free, 5u);
  table->release_log(seg);
  EXPECT_EQ(table->counts().free, 6u);
  EXPECT_EQ(table->generation(seg), 0u) << "no key names a log segment";
  EXPECT_TRUE(image_.memory().journal().empty());
}

using SegmentsDeathTest = Segments;

TEST_F(SegmentsDeathTest, DroppingMoreThanWasTakenIsOurBug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto table = image_.table(0);
  ASSERT_TRUE(table->replay_key(SegId{1}));
  EXPECT_DEATH(table->drop_refs(SegId{1}, 2), "before >= n");
  EXPECT_DEATH(table->drop_refs(SegId{2}), "before >= n");
}

TEST_F(SegmentsDeathTest, ReleasingWhatIsNotTheLogsIsOurBug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto table = image_.table(0);
  ASSERT_TRUE(table->replay_key(SegId{1}));
  EXPECT_DEATH(table->release_log(SegId{1}), "kLog");
  EXPECT_DEATH(table->release_log(SegId{2}), "kLog");
}

TEST_F(SegmentsDeathTest, RaisingToNoMoreIsOurBug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto table = image_.table(0);
  EXPECT_DEATH(table->raise_generation(SegId{1}, 0), "gen >");
}

TEST_F(Segments, ManyThreadsTakeAndFree) {
  image_.memory().set_recording(false);
  const auto table = image_.table(1);
  const auto work = [&] {
    for (int i = 0; i < 2000; i++) {
      const auto seg = table->take_for_data();
      if (!seg) continue;
      const uint64_t gen = table->generation(*seg);
      table->add_refs(*seg, 1);
      table->finish_filling(*seg, 1);
      table->drop_refs(*seg);
      table->drop_refs(*seg);  // the segment may be another's from here on
      EXPECT_GT(table->generation(*seg), gen);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; i++) threads.emplace_back(work);
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(table->counts().free, 6u);
}

class RetiredSegments : public Segments {
 protected:
  // Takes segments for data until there is none.
  static std::vector<uint32_t> all_for_data(SegmentTable& table) {
    std::vector<uint32_t> taken;
    while (const auto seg = table.take_for_data()) taken.push_back(seg->v);
    return taken;
  }
  void watch(SegmentTable& table) {
    table.set_events({[](SegId) {}, [this] { freed_++; },
                      [this](SegId seg, MediaOff at) {
                        retired_.push_back({seg.v, at.v});
                      }});
  }
  std::vector<std::pair<uint32_t, uint64_t>> retired_;
  int freed_ = 0;
};

TEST_F(RetiredSegments, IsNotHandedOutAgainWhenItsDataIsGone) {
  const auto table = image_.table(0);
  watch(*table);
  const SegId seg = *table->take_for_data();
  image_.memory().make_bad(table->media({seg, 5000}));
  std::byte bytes[8192] = {};
  EXPECT_FALSE(image_.pmem().store(table->media({seg, 0}), bytes, sizeof bytes));
  table->retire(seg);
  table->retire(seg);
  EXPECT_EQ(retired_, (decltype(retired_){{seg.v, table->media({seg, 4096}).v}})) << "said once";
  EXPECT_EQ(table->counts().data, 1u) << "what is in it stays";
  table->finish_filling(seg, 0);
  SegmentCounts counts = table->counts();
  EXPECT_EQ(counts.data, 0u);
  EXPECT_EQ(counts.free, 5u);
  EXPECT_EQ(counts.retired, 1u);
  EXPECT_EQ(freed_, 0);
  EXPECT_EQ(all_for_data(*table), (std::vector<uint32_t>{1, 2, 3, 4, 5}));
  EXPECT_FALSE(table->take_for_log());
}

TEST_F(RetiredSegments, OneThatCannotGetItsNextGeneration) {
  const auto table = image_.table(0);
  watch(*table);
  const SegId seg = *table->take_for_data();
  image_.memory().make_bad(segment_gen_place(seg.v).base);
  table->finish_filling(seg, 0);
  EXPECT_EQ(table->generation(seg), 0u);
  EXPECT_EQ(retired_.size(), 1u);
  EXPECT_EQ(all_for_data(*table), (std::vector<uint32_t>{1, 2, 3, 4, 5}));
}

TEST_F(RetiredSegments, OneWhoseGenerationCannotBeReadKeepsItsData) {
  image_.memory().make_bad(segment_gen_place(1).base);
  image_.memory().make_bad(segment_gen_place(2).base);
  const auto table = image_.table(0);
  watch(*table);
  EXPECT_EQ(retired_, (decltype(retired_){{1, segment_off(1).v}, {2, segment_off(2).v}}));
  EXPECT_EQ(table->counts().free, 4u);
  EXPECT_TRUE(table->replay_key(SegId{1})) << "the log says that it has data";
  table->replay_log_segment(SegId{2});
  EXPECT_EQ(table->counts().data, 1u);
  EXPECT_EQ(table->counts().log, 1u);
  EXPECT_EQ(table->counts().free, 4u);
  table->drop_refs(SegId{1});
  table->release_log(SegId{2});
  EXPECT_EQ(table->counts().free, 4u);
  EXPECT_EQ(all_for_data(*table), (std::vector<uint32_t>{0, 3, 4, 5}));
}

// At any page of the segment. A data segment is not read before it is handed out.
TEST_F(RetiredSegments, TheLogIsNotLedToABadPage) {
  image_.memory().make_bad(segment_data_off(0));
  image_.memory().make_bad(segment_data_off(1) + (media::kSegDataBytes - 1));
  const auto table = image_.table(0);
  watch(*table);
  EXPECT_EQ(table->take_for_log(), SegId{2});
  EXPECT_EQ(table->counts().log, 1u);
  EXPECT_EQ(table->counts().retired, 2u);
  EXPECT_EQ(retired_.size(), 2u);
  table->release_log(SegId{2});
  EXPECT_EQ(all_for_data(*table), (std::vector<uint32_t>{3, 4, 5, 2}));
}

TEST_F(RetiredSegments, TooManyAreSaidToBeTooMany) {
  const auto table = image_.table(2);
  const SegId log = *table->take_for_log();
  for (uint32_t i = 1; i <= 2; i++) table->retire(SegId{i});
  EXPECT_FALSE(table->exhausted_for_data()) << "of four one is the log's and two are kept for it";
  table->retire(SegId{3});
  EXPECT_TRUE(table->exhausted_for_data());
  EXPECT_FALSE(table->take_for_data());
  table->retire(SegId{4});
  EXPECT_FALSE(table->exhausted_for_log());
  table->retire(log);
  EXPECT_FALSE(table->exhausted_for_log()) << "one is left to go on in";
  const SegId last = *table->take_for_log();
  EXPECT_TRUE(table->exhausted_for_log());
  table->release_log(log);
  EXPECT_FALSE(table->take_for_log());
  EXPECT_EQ(last, SegId{5});
}

}  // namespace
}  // namespace pcache
