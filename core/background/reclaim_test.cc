// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/reclaim.h"

#include <random>
#include <set>

#include "background/background_for_test.h"

namespace pcache {
namespace {

using ::testing::HasSubstr;

class ReclaimTest : public BackgroundTest {
 protected:
  const Reclaim::Counters& counters() const { return rig_->reclaim->counters(); }
  SegmentCounts counts() const { return rig_->table->counts(); }
  CachePos key_tail() const { return rig_->tails.key_tail(); }
  // key_tail as a crash now leaves it, whatever it lets through.
  CachePos durable_key_tail() {
    const Journal& journal = image_->memory().journal();
    std::vector<KeptStore> kept;
    size_t last_fence = 0;
    for (size_t i = 0; i < journal.size(); i++)
      if (journal[i].fence) last_fence = i;
    for (size_t i = 0; i < last_fence; i++)
      if (!journal[i].fence) kept.push_back({journal[i].off, journal[i].bytes});
    const auto crashed = image_->memory().crash_image(kept);
    Tails tails;
    EXPECT_TRUE(tails.load(crashed->pmem(), {options_.segments, options_.logical_bytes}).ok());
    return tails.key_tail();
  }
};

TEST_F(ReclaimTest, NothingBeforeDirtyTail) {
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  image_->memory().checkpoint();
  EXPECT_FALSE(rig_->reclaim->step().value());
  EXPECT_TRUE(image_->memory().journal().empty());
  EXPECT_EQ(rig_->value(0), 1);
}

TEST_F(ReclaimTest, ForgetsWhatIsWrittenBack) {
  start();
  rig_->write(0, 4096, 1);
  rig_->write(8192, 4096, 2);
  rig_->flush();
  rig_->write_back();
  EXPECT_TRUE(rig_->reclaim->step().value());
  EXPECT_FALSE(rig_->reclaim->step().value());
  EXPECT_EQ(key_tail(), rig_->log->head());
  EXPECT_EQ(rig_->index->mapped_bytes(), 0u);
  EXPECT_EQ(rig_->value(0), 1) << "from the device";
  EXPECT_EQ(rig_->value(8192), 2);
  EXPECT_EQ(counters().ksets, 1u);
  EXPECT_EQ(counters().keys, 2u);
  EXPECT_EQ(counters().forgotten_bytes, 8192u);
}

TEST_F(ReclaimTest, GivesABiasBack) {
  if (!process_barrier_available()) GTEST_SKIP() << "membarrier(2) is not permitted here";
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  const BiasedMutex& mu = written_until_biased(8192);
  rig_->write_back();
  EXPECT_EQ(rig_->reclaim_all(), 1);
  EXPECT_EQ(rig_->mapped(0, 512), ".") << "of the same stripe";
  EXPECT_TRUE(mu.is_biased());
}

// What stays of a step has to find a place before anything of it comes free.
TEST_F(ReclaimTest, AStepHasNoMoreDataThanASegment) {
  start();
  // Ksets of 2.5 MiB, of which the seventh would be too much.
  for (uint64_t range = 0; range < 8; range++)
    for (uint64_t i = 0; i < 40; i++)
      ASSERT_TRUE(rig_->fill(range * kRangeBytes + i * 65536, 65536));
  rig_->flush();
  rig_->write_back();
  const uint64_t ksets = rig_->log->counters().ksets;
  EXPECT_TRUE(rig_->reclaim->step().value());
  EXPECT_LT(counters().ksets, ksets);
  EXPECT_LE(counters().forgotten_bytes, kReclaimStepBytes);
  EXPECT_GT(counters().forgotten_bytes, kReclaimStepBytes / 2);
}

TEST_F(ReclaimTest, NeverPassesDirtyTail) {
  start();
  for (uint32_t i = 1; i <= 3; i++) {
    rig_->write(i * 4096, 4096, i);
    rig_->flush();
  }
  for (uint32_t i = 1; i <= 3; i++) {
    EXPECT_TRUE(step().value());
    EXPECT_EQ(rig_->reclaim_all(), 1);
    EXPECT_EQ(key_tail(), rig_->tails.dirty_tail());
    for (uint32_t k = 1; k <= 3; k++)
      EXPECT_EQ(rig_->mapped(k * 4096, 512), k <= i ? "." : "D") << i << " " << k;
  }
  EXPECT_EQ(key_tail(), rig_->log->head());
}

TEST_F(ReclaimTest, AStepIsSoManyKsets) {
  start();
  for (uint32_t i = 0; i < 2 * kReclaimStepKsets + 1; i++) {
    rig_->write(i * 4096, 512, i);
    rig_->close();
  }
  rig_->write_back();
  EXPECT_TRUE(rig_->reclaim->step().value());
  EXPECT_EQ(counters().ksets, kReclaimStepKsets);
  EXPECT_EQ(rig_->reclaim_all(), 2);
  EXPECT_EQ(counters().ksets, 2 * kReclaimStepKsets + 1);
}

TEST_F(ReclaimTest, FreesDataSegments) {
  start();
  for (uint64_t i = 0; i < 10; i++) ASSERT_TRUE(rig_->write(i * kRangeBytes, kRangeBytes, 1));
  rig_->flush();
  rig_->write_back();
  EXPECT_EQ(counts().data, 3u);
  EXPECT_EQ(counts().log, 1u);
  rig_->reclaim_all();
  EXPECT_EQ(counts().data, 1u) << "the head's";
  EXPECT_EQ(rig_->table->generation(SegId{1}), 1u);
  EXPECT_EQ(rig_->table->generation(SegId{2}), 1u);
  EXPECT_EQ(rig_->table->generation(SegId{3}), 0u);
  attach();
  EXPECT_EQ(rig_->table->generation(SegId{1}), 1u) << "durable";
}

TEST_F(ReclaimTest, ASegmentStaysWhileAnyKeyNamesIt) {
  start();
  rig_->write(0, 512, 1);
  rig_->flush();
  rig_->write(4096, 512, 2);
  rig_->flush();
  const SegId seg = rig_->lookup({0, 512}).pos.seg;
  rig_->head = std::make_unique<DataHead>(*rig_->table, 512);
  EXPECT_TRUE(step().value());
  rig_->reclaim_all();
  EXPECT_EQ(rig_->table->generation(seg), 0u);
  EXPECT_EQ(rig_->value(4096), 2);
  EXPECT_TRUE(step().value());
  rig_->reclaim_all();
  EXPECT_EQ(rig_->table->generation(seg), 1u);
  EXPECT_EQ(counts().data, 0u);
}

TEST_F(ReclaimTest, FreesLogSegments) {
  start({.log_head = media::kSegDataBytes - 1024});
  for (uint32_t i = 0; i < 100; i++) {
    rig_->write(i * 4096, 512, i);
    rig_->close();
  }
  EXPECT_EQ(counts().log, 2u);
  rig_->write_back();
  rig_->reclaim_all();
  EXPECT_EQ(counts().log, 1u);
  EXPECT_EQ(key_tail(), rig_->log->head());
  std::set<SegId> free;
  while (const auto seg = rig_->table->take_for_log()) free.insert(*seg);
  EXPECT_TRUE(free.contains(SegId{0})) << "the one it left";
  EXPECT_FALSE(free.contains(rig_->log->head().seg));
  attach();
  EXPECT_EQ(counts().log, 1u);
  EXPECT_EQ(rig_->value(99 * 4096), 99);
}

// dirty_tail may stand on the LAST kset, and then nothing behind it may be looked at.
TEST_F(ReclaimTest, StopsAtALastKset) {
  start({.log_head = media::kSegDataBytes - 24 - 64});
  rig_->write(0, 512, 1);
  rig_->flush();
  const LogMark first = rig_->log->mark();
  EXPECT_EQ(first.pos.off, media::kSegDataBytes - 24);
  rig_->write(4096, 512, 2);
  rig_->flush();
  EXPECT_EQ(rig_->log->counters().rolls, 1u);
  EXPECT_TRUE(rig_->writeback->step(first, rig_->batch()).value());
  EXPECT_EQ(rig_->reclaim_all(), 1);
  EXPECT_EQ(key_tail(), first.pos);
  EXPECT_EQ(counts().log, 2u);
  attach();
  EXPECT_EQ(rig_->value(4096), 2);
  rig_->write_back();
  EXPECT_EQ(rig_->reclaim_all(), 1);
  EXPECT_EQ(counts().log, 1u);
  EXPECT_EQ(rig_->device_value(4096), 2);
}

// Hazard reuse-before-durable: a log segment that is free may be written to at once. A crash before
// key_tail is durable would find something else where the log began.
TEST_F(ReclaimTest, KeyTailIsDurableBeforeALogSegmentIsFree) {
  start({.log_head = media::kSegDataBytes - 1024});
  for (uint32_t i = 0; i < 100; i++) {
    rig_->write(i * 4096, 512, i);
    rig_->close();
  }
  rig_->write_back();
  image_->memory().checkpoint();
  int freed = 0;
  rig_->table->set_events({nullptr, [&] {
                             freed++;
                             EXPECT_EQ(durable_key_tail().seg, rig_->log->head().seg);
                           }});
  rig_->reclaim_all();
  rig_->table->set_events({});
  EXPECT_EQ(freed, 1);
}

TEST_F(ReclaimTest, KeyTailIsDurableBeforeADataSegmentIsFree) {
  start();
  for (uint64_t i = 0; i < 10; i++) rig_->write(i * kRangeBytes, kRangeBytes, 1);
  rig_->flush();
  rig_->write_back();
  image_->memory().checkpoint();
  rig_->reclaim_all();
  const Journal& journal = image_->memory().journal();
  const MediaOff slots[] = {key_tail_place().base, key_tail_place().base + sizeof(media::TailPos)};
  const size_t moved = std::min(find_store(journal, slots[0]), find_store(journal, slots[1]));
  for (const uint32_t seg : {1, 2}) {
    const size_t freed = find_store(journal, segment_gen_place(seg).base);
    ASSERT_LT(freed, journal.size());
    EXPECT_LT(moved, freed);
    EXPECT_GE(count_fences(journal, moved, freed), 1u);
  }
}

// Hazard dead-key-references: replay has taken no reference for a dead key, so reclaim drops none.
TEST_F(ReclaimTest, DeadKeysDropNoReference) {
  start();
  rig_.reset();
  const SegId kData{3};
  image_->generation(kData, 5);
  const CachePos end = image_->kset(
      {}, {make_key({0, 512}, {kData, 0}, 4),                                               // dead
           make_key({512, 512}, {kData, 512}, 5), make_key({1024, 512}, {kData, 1024}, 3),  // dead
           make_key({1536, 512}, {kData, 1536}, 5)});
  image_->clear_header(end);
  image_->dirty_tail(end);
  image_->memory().checkpoint();
  device_->poke(512, Bytes(512));
  device_->poke(1536, Bytes(512));
  attach();
  EXPECT_EQ(rig_->replayed.dead_keys, 2u);
  EXPECT_EQ(rig_->mapped(0, 2048), ".C.C");
  EXPECT_TRUE(rig_->reclaim->step().value());
  EXPECT_EQ(counters().dead_keys, 2u);
  EXPECT_EQ(counters().keys, 2u);
  EXPECT_EQ(rig_->table->generation(kData), 6u) << "freed once, by the last live one";
  EXPECT_EQ(rig_->mapped(0, 2048), "....");
}

TEST_F(ReclaimTest, OnlyDeadKeys) {
  start();
  rig_.reset();
  image_->generation(SegId{3}, 5);
  const CachePos end = image_->kset({}, {make_key({0, 512}, {SegId{3}, 0}, 4)});
  image_->clear_header(end);
  image_->dirty_tail(end);
  image_->memory().checkpoint();
  attach();
  EXPECT_TRUE(rig_->reclaim->step().value());
  EXPECT_EQ(key_tail(), end);
  EXPECT_EQ(rig_->table->generation(SegId{3}), 5u);
}

TEST_F(ReclaimTest, WhatIsYoungerStaysInTheIndex) {
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  rig_->write_back();
  rig_->write(1024, 512, 2);  // open
  rig_->fill(2048, 512);      // clean, but another key's
  EXPECT_EQ(rig_->reclaim_all(), 1);
  EXPECT_EQ(rig_->mapped(0, 4096), "..D.C...");
  EXPECT_EQ(rig_->value(1024), 2);
  EXPECT_EQ(rig_->value(2048), 1);
}

// The key is behind dirty_tail's back, its data is not on the device: only damage makes that.
TEST_F(ReclaimTest, DirtySlotsStayInTheIndex) {
  start({.data_crc = true});
  rig_->write(0, 4096, 1);
  rig_->write(4096, 4096, 2);
  rig_->flush();
  damage(0);
  rig_->write_back();
  const SegId seg = rig_->lookup({0, 512}).pos.seg;
  rig_->head.reset();
  rig_->reclaim_all();
  EXPECT_EQ(rig_->mapped(0, 8192), "DDDDDDDD........");
  EXPECT_EQ(rig_->value(0), Rig::kUnreadable);
  EXPECT_EQ(rig_->table->generation(seg), 0u) << "its second key holds it";
}

TEST_F(ReclaimTest, DamagedCleanDataIsCounted) {
  start({.data_crc = true});
  rig_->write(0, 4096, 1);
  rig_->write(4096, 4096, 2);
  rig_->flush();
  rig_->write_back();
  damage(4096);
  rig_->reclaim_all();
  EXPECT_EQ(counters().bad_clean, 1u);
  EXPECT_EQ(rig_->value(4096), 2);
}

TEST_F(ReclaimTest, ADamagedLogStopsIt) {
  start();
  std::vector<CachePos> at;
  for (uint32_t i = 0; i < 3; i++) {
    at.push_back(rig_->log->head());
    rig_->write(i * 4096, 4096, i);
    rig_->flush();
  }
  rig_->write_back();
  image_->memory().flip_bit(image_->off(at[1]) + sizeof(media::KsetHeader));
  for (int i = 0; i < 2; i++) {
    const auto moved = rig_->reclaim->step();
    ASSERT_FALSE(moved.ok());
    EXPECT_THAT(moved.error().text, HasSubstr("log at segment 0:64: kset fails its crc"));
  }
  EXPECT_EQ(counters().errors, 2u);
  EXPECT_EQ(key_tail(), CachePos{});
  EXPECT_EQ(rig_->value(0), 0);
}

// A log that ends before dirty_tail has lost what was behind it: nothing may be freed by it.
TEST_F(ReclaimTest, ALogThatEndsBeforeDirtyTailStopsIt) {
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  const CachePos second = rig_->log->head();
  rig_->write(4096, 4096, 2);
  rig_->flush();
  rig_->write_back();
  image_->clear_header(second);
  (void)rig_->reclaim->step().ok();
  EXPECT_FALSE(rig_->reclaim->step().ok());
  EXPECT_LE(key_tail(), second);
}

class ReclaimCrash : public ReclaimTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(DataCrc, ReclaimCrash, ::testing::Bool());

// Hazard dead-key-references: a PCACHE_CHECK in the segment table ends the process when a reference
// is dropped that nobody has taken.
TEST_P(ReclaimCrash, ReplayAndReclaimAgain) {
  start({.data_crc = GetParam(), .log_head = media::kSegDataBytes - 4096});
  std::map<uint64_t, int> expected;
  const auto write = [&](uint64_t off, uint64_t len, uint32_t value) {
    ASSERT_TRUE(rig_->write(off, len, value));
    for (uint64_t at = off; at < off + len; at += 512) expected[at] = static_cast<int>(value);
  };
  // A segment of data, most of it in extents of which nothing else is asked, and a log that rolls.
  rig_->write(6 * kRangeBytes, kRangeBytes, 1);
  rig_->write(7 * kRangeBytes, kRangeBytes, 1);
  rig_->write(8 * kRangeBytes, kRangeBytes, 1);
  for (uint32_t i = 0; i < 150; i++) {
    write(i * 7 % 60 * 1024 + i % 3 * kRangeBytes, 1536, i);
    rig_->close();
  }
  rig_->write(9 * kRangeBytes, kRangeBytes, 1);
  rig_->flush();
  rig_->write_back();
  write(512, 512, 1000);
  write(kRangeBytes, 512, 1001);
  rig_->flush();
  rig_->write(1024, 512, 1002);  // open: lost
  EXPECT_EQ(counts().log, 2u);

  image_->memory().checkpoint();
  rig_->reclaim_all();
  EXPECT_EQ(counts().log, 1u);
  int states = 0;
  for_each_crash({}, [&](Rig& rig) {
    states++;
    const auto expect_all = [&] {
      for (const auto& [off, value] : expected) ASSERT_EQ(rig.value(off), value) << off;
    };
    const Bytes before = device_->peek(0, 2 * kRangeBytes);
    expect_all();
    rig.reclaim_all();
    expect_all();
    EXPECT_TRUE(rig.dirty(512));
    rig.write_back();
    rig.reclaim_all();
    expect_all();
    EXPECT_EQ(rig.index->mapped_bytes(), 0u);
    EXPECT_EQ(rig.table->counts().data, 0u) << "nothing is left referenced";
    EXPECT_EQ(rig.table->counts().log, 1u);
    device_->poke(512, std::span(before).subspan(512, 512));
    device_->poke(kRangeBytes, std::span(before).subspan(kRangeBytes, 512));
  });
  EXPECT_GT(states, 10);
}

// What is freed is taken again before the crash: no state shows new data under an old key.
TEST_P(ReclaimCrash, SegmentsInTheirNextLife) {
  start({.segments = 4, .log_reserve = 0, .data_crc = GetParam()});
  uint32_t value = 0;
  std::map<uint64_t, int> expected;
  // Four of 4 MiB fill a segment, so the small writes between them wander.
  for (int round = 0; round < 8; round++) {
    for (uint64_t i = 0; i < 3; i++)
      ASSERT_TRUE(rig_->write((4 + i) * kRangeBytes, kRangeBytes, ++value));
    for (uint64_t i = 0; i < 5; i++) {
      const uint64_t off = (round + i) % 8 * 1024;
      ASSERT_TRUE(rig_->write(off, 1024, ++value));
      expected[off] = expected[off + 512] = static_cast<int>(value);
    }
    rig_->flush();
    rig_->write_back();
    image_->memory().checkpoint();
    rig_->reclaim_all();
    // The next round's first data, as yet under no key.
    ASSERT_TRUE(rig_->write(3 * kRangeBytes, 4096, ++value));
    for_each_crash({.samples = 20}, [&](Rig& rig) {
      for (const auto& [off, v] : expected) ASSERT_EQ(rig.value(off), v) << off;
    });
  }
  EXPECT_GT(rig_->table->generation(SegId{1}), 0u);
}

TEST_P(ReclaimCrash, RandomWorkAgainstAModel) {
  for (uint64_t seed = 1; seed <= 4; seed++) {
    std::mt19937_64 random(seed);
    start({.data_crc = GetParam(), .log_head = media::kSegDataBytes - 8192});
    std::map<uint64_t, int> now;
    uint32_t value = 0;
    for (int i = 0; i < 600; i++) {
      const uint64_t choice = random() % 100;
      const uint64_t off = random() % 60 * 512 + random() % 4 * kRangeBytes;
      if (choice < 60) {
        const uint64_t len = (1 + random() % 16) * 512;
        if (rig_->table->counts().free < 3) {
          rig_->flush();
          rig_->write_back();
          rig_->reclaim_all();
        }
        ASSERT_TRUE(rig_->write(off, len, ++value));
        for (uint64_t at = off; at < off + len; at += 512) now[at] = static_cast<int>(value);
      } else if (choice < 70) {
        if (rig_->lookup({off, 512}).kind == Piece::Kind::kMiss) rig_->fill(off, 512);
      } else if (choice < 80) {
        rig_->flush();
      } else if (choice < 88) {
        ASSERT_TRUE(step().ok());
      } else if (choice < 96) {
        ASSERT_TRUE(rig_->reclaim->step().ok());
      } else if (choice < 98) {
        rig_->flush();
        attach();
      } else {
        rig_->flush();
        image_->memory().checkpoint();
        ASSERT_TRUE(random() & 1 ? step().ok() : rig_->reclaim->step().ok());
        for_each_crash({.samples = 10}, [&](Rig& rig) {
          for (const auto& [at, v] : now) ASSERT_EQ(rig.value(at), v) << at << " seed " << seed;
        });
      }
      if (i % 20 == 0) {
        for (const auto& [at, v] : now) ASSERT_EQ(rig_->value(at), v) << at << " seed " << seed;
      }
    }
    rig_->flush();
    rig_->write_back();
    rig_->reclaim_all();
    for (const auto& [at, v] : now) ASSERT_EQ(rig_->device_value(at), v) << at << " seed " << seed;
    rig_->head.reset();
    EXPECT_EQ(counts().data, 0u);
  }
}

}  // namespace
}  // namespace pcache
