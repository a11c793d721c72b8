// SPDX-License-Identifier: GPL-2.0-or-later
// What stays in the cache when reclaim comes to it. The rule is second chance: what was read stays.
#include <optional>
#include <random>
#include <utility>

#include "background/background_for_test.h"

namespace pcache {
namespace {

class RetentionTest : public BackgroundTest {
 protected:
  static RigOptions second_chance() {
    RigOptions o;
    o.policy = policy::PolicyKind::kSecondChance;
    return o;
  }
  void start(const RigOptions& o = second_chance()) { BackgroundTest::start(o); }
  const Mover::Counters& kept() const { return *rig_->reclaim->kept(); }
  CachePos place(uint64_t off) const { return rig_->lookup({off, kSector}).pos; }
  // Four pages: dirty ones that were written back, and what was filled.
  void written_and_filled() {
    rig_->write(0, 4096, 1);
    rig_->write(4096, 4096, 2);
    rig_->fill(8192, 4096);
    rig_->fill(12288, 4096);
    rig_->flush();
    rig_->write_back();
  }
};

TEST_F(RetentionTest, WhatWasReadStays) {
  start();
  written_and_filled();
  const CachePos before = place(0);
  rig_->hit(0);
  rig_->hit(8192 + 512);
  EXPECT_EQ(rig_->reclaim_all(), 1);
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
  EXPECT_EQ(rig_->mapped(4096, 4096), "........");
  EXPECT_EQ(rig_->mapped(8192, 4096), "CCCCCCCC");
  EXPECT_EQ(rig_->mapped(12288, 4096), "........");
  EXPECT_NE(place(0), before);
  EXPECT_EQ(kept().moved_keys.load(), 2u);
  EXPECT_EQ(kept().moved_bytes.load(), 8192u);
  EXPECT_EQ(rig_->value(0), 1);
  EXPECT_EQ(rig_->value(8192), Rig::kBacking);
  rig_->close();
  attach();
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
  EXPECT_EQ(rig_->value(0), 1);
}

TEST_F(RetentionTest, NothingStaysWhereNothingIsToBeKept) {
  start();
  written_and_filled();
  rig_->hit(0);
  EXPECT_TRUE(rig_->reclaim->step(Reclaim::Keep::kNothing).value());
  EXPECT_EQ(rig_->index->mapped_bytes(), 0u);
  EXPECT_EQ(kept().moved_keys.load(), 0u);
  EXPECT_EQ(rig_->value(0), 1) << "from the device";
}

TEST_F(RetentionTest, OnceForEachTimeThatItWasRead) {
  start();
  written_and_filled();
  rig_->hit(0);
  rig_->reclaim_all();
  rig_->flush();
  rig_->write_back();  // dirty_tail passes its new key
  rig_->reclaim_all();
  EXPECT_EQ(rig_->mapped(0, 512), ".");
  EXPECT_EQ(kept().moved_keys.load(), 1u);
}

TEST_F(RetentionTest, WhatComesToTheSamePlaceWasNotRead) {
  start();
  written_and_filled();
  const CachePos old = place(0);
  rig_->hit(0);
  rig_->reclaim_all();
  EXPECT_EQ(rig_->retention->mark(rig_->media(0), 4096), policy::Mark::kNotHit);
  EXPECT_EQ(rig_->retention->mark(rig_->table->media(old), 4096), policy::Mark::kHit);
  // Until its segment is another's.
  uint64_t filled = 0;
  do {
    const uint64_t off = (32 << 20) + filled++ % 32 * kRangeBytes / 4;
    ASSERT_TRUE(rig_->fill(off, kRangeBytes / 4));
    if (rig_->table->generation(old.seg) > 0 && place(off).seg == old.seg) break;
    rig_->flush();
    rig_->write_back();
    rig_->reclaim_all();
  } while (filled < 200);
  EXPECT_LT(filled, 200u);
  EXPECT_EQ(rig_->retention->mark(rig_->table->media(old), 4096), policy::Mark::kNotHit);
}

// A write of 512 bytes moves all that comes behind it in its segment by as much.
TEST_F(RetentionTest, WhatSharesAMarkWithItsNeighbourStays) {
  start();
  rig_->write(0, 512, 1);
  rig_->write(8192, 4096, 2);
  rig_->write(12288, 4096, 3);
  rig_->write(16384, 4096, 4);
  rig_->flush();
  rig_->write_back();
  rig_->hit(12288);
  rig_->reclaim_all();
  EXPECT_EQ(rig_->mapped(12288, 4096), "CCCCCCCC");
  EXPECT_EQ(rig_->mapped(0, 512), ".");
  EXPECT_EQ(rig_->mapped(16384, 512), ".");
}

// What came page by page, and is read together.
TEST_F(RetentionTest, AReadOfManyKeysMarksEachOfThem) {
  start();
  for (uint64_t off = 0; off < 128 << 10; off += 4096) rig_->fill(off, 4096);
  rig_->flush();
  rig_->write_back();
  ASSERT_EQ(rig_->lookup({0, 64 << 10}).extent.len, uint64_t{64 << 10}) << "one piece";
  rig_->hit(0, 64 << 10);
  rig_->reclaim_all();
  EXPECT_EQ(kept().moved_keys.load(), 16u);
  EXPECT_EQ(rig_->mapped(60 << 10, 4096), "CCCCCCCC");
  EXPECT_EQ(rig_->mapped(64 << 10, 512), ".");
}

TEST_F(RetentionTest, AnyPageOfAnExtentCounts) {
  start();
  rig_->fill(0, 64 << 10);
  rig_->fill(64 << 10, 64 << 10);
  rig_->flush();
  rig_->write_back();
  rig_->hit((64 << 10) - 512);
  rig_->reclaim_all();
  EXPECT_EQ(kept().moved_bytes.load(), uint64_t{64 << 10});
  EXPECT_EQ(rig_->mapped(0, 512), "C");
  EXPECT_EQ(rig_->mapped(64 << 10, 512), ".");
}

// What is left of an extent that was overwritten in part is clean; what was written over it has its
// own key.
TEST_F(RetentionTest, OnlyWhatIsLeftOfAnExtentIsKept) {
  start();
  rig_->fill(0, 16384);
  rig_->flush();
  rig_->write_back();
  rig_->hit(0);
  rig_->write(4096, 4096, 7);
  rig_->flush();
  EXPECT_TRUE(rig_->reclaim->step().value());
  EXPECT_EQ(kept().moved_bytes.load(), 12288u);
  EXPECT_EQ(rig_->mapped(0, 512), "C");
  EXPECT_EQ(rig_->mapped(4096, 512), "D");
  EXPECT_EQ(rig_->value(4096), 7);
  attach();
  EXPECT_EQ(rig_->value(4096), 7);
}

// Of nine in a row that were read one has to go, where 256 are the capacity; those that are
// superseded do not count.
TEST_F(RetentionTest, WhatIsSupersededTakesNobodysPlace) {
  RigOptions o = second_chance();
  o.kept_bytes = 256 * 4096;
  start(o);
  constexpr uint64_t kPages = 9;
  for (uint64_t i = 0; i < kPages; i++) rig_->fill(i * 4096, 4096);
  rig_->flush();
  rig_->write_back();
  for (uint64_t i = 0; i < kPages; i++) rig_->hit(i * 4096);
  rig_->write(0, (kPages - 1) * 4096, 1);
  rig_->flush();
  EXPECT_TRUE(rig_->reclaim->step().value());
  EXPECT_EQ(rig_->mapped((kPages - 1) * 4096, 512), "C");
  EXPECT_EQ(kept().moved_keys.load(), 1u);
}

// Damaged dirty data has its key appended again, with the same place: the earlier key does not say
// that it is clean.
TEST_F(RetentionTest, DirtyDataIsLeftToWriteback) {
  RigOptions o = second_chance();
  o.data_crc = true;
  start(o);
  rig_->write(0, 4096, 1);
  rig_->write(4096, 4096, 2);
  rig_->flush();
  damage(0);
  rig_->hit(0);
  (void)step();
  (void)step();
  rig_->hit(0);
  ASSERT_EQ(rig_->mapped(0, 512), "D");
  EXPECT_TRUE(rig_->reclaim->step().value());
  EXPECT_EQ(kept().moved_keys.load(), 0u);
  EXPECT_EQ(rig_->mapped(0, 512), "D");
  EXPECT_EQ(rig_->value(0), Rig::kUnreadable);
}

TEST_F(RetentionTest, DamagedCleanDataIsGivenUp) {
  RigOptions o = second_chance();
  o.data_crc = true;
  start(o);
  written_and_filled();
  damage(8192);
  rig_->hit(8192);
  rig_->reclaim_all();
  EXPECT_EQ(kept().moved_keys.load(), 0u);
  EXPECT_EQ(rig_->mapped(8192, 512), ".");
  EXPECT_EQ(rig_->value(8192), Rig::kBacking);
}

// Whatever is read, space comes free: with a cache full of what was read, and no segment for it.
TEST_F(RetentionTest, SpaceComesFreeWhateverIsRead) {
  RigOptions o = second_chance();
  start(o);
  uint64_t filled = 0;
  while (rig_->fill(filled % (32 << 20), 65536)) filled += 65536;
  rig_->flush();
  EXPECT_EQ(rig_->table->counts().free, o.log_reserve) << "no place for what stays";
  for (int round = 0; round < 8; round++) {
    for (uint64_t off = 0; off < 32 << 20; off += 65536)
      if (rig_->lookup({off, kSector}).kind == Piece::Kind::kHit) rig_->hit(off);
    rig_->write_back();
    rig_->reclaim_all();
    ASSERT_GT(rig_->table->counts().free, o.log_reserve);
    for (int i = 0; i < 100; i++, filled += 65536)
      ASSERT_TRUE(rig_->fill(filled % (32 << 20), 65536));
    rig_->flush();
  }
  EXPECT_GT(kept().moved_keys.load(), 0u);
}

// With all of it read: two thirds stay, and little at the beginning, though a whole capacity might.
TEST_F(RetentionTest, WhileSomebodyWaitsEachStepFreesSpace) {
  constexpr uint64_t kBytes = 48 << 20;
  for (const auto keep : {Reclaim::Keep::kAll, Reclaim::Keep::kLittle}) {
    RigOptions o = second_chance();
    o.kept_bytes = 256 << 20;
    start(o);
    for (uint64_t off = 0; off < kBytes; off += 65536) ASSERT_TRUE(rig_->fill(off, 65536));
    rig_->flush();
    rig_->write_back();
    for (uint64_t off = 0; off < kBytes; off += 65536) rig_->hit(off);
    while (rig_->index->mapped_bytes() > 0 && rig_->reclaim->step(keep).value()) {
    }
    const uint64_t moved = kept().moved_bytes.load();
    if (keep == Reclaim::Keep::kAll)
      EXPECT_GT(moved, kBytes * 9 / 10);
    else
      EXPECT_LT(moved, kBytes * 2 / 3 + o.kept_bytes / 32 + 65536);
  }
}

TEST_F(RetentionTest, ThereIsRoomUntilSomethingIsGivenUp) {
  RigOptions o;
  o.policy = policy::PolicyKind::kAdaptive;
  o.kept_bytes = 4 << 20;
  start(o);
  // Of misses that come once, few are admitted where there is no room.
  uint64_t next = 1 << 30;
  const auto has_room = [&] {
    int admitted = 0;
    for (int i = 0; i < 64; i++, next += 1 << 20) admitted += rig_->retention->admits({next, 4096});
    return admitted > 32;
  };
  EXPECT_TRUE(has_room());
  const auto overwrite = [&](uint64_t bytes) {  // superseded, but for the last page
    for (uint64_t done = 0; done < bytes; done += 4096) ASSERT_TRUE(rig_->write(0, 4096, 1));
    rig_->flush();
    rig_->write_back();
  };
  overwrite(8 << 20);
  rig_->write(0, 4096, 2);
  rig_->reclaim_all();
  EXPECT_TRUE(has_room()) << "nothing was given up";
  rig_->fill(8192, 4096);
  overwrite(4096);
  rig_->write(0, 4096, 3);
  rig_->reclaim_all();
  EXPECT_FALSE(has_room());
  overwrite(2 << 20);
  rig_->write(0, 4096, 4);
  rig_->reclaim_all();
  EXPECT_FALSE(has_room());
  overwrite(4 << 20);
  rig_->write(0, 4096, 5);
  rig_->reclaim_all();
  EXPECT_TRUE(has_room()) << "nothing for a whole capacity";
}

// Hazard kept-without-end. All is read before reclaim comes to it, and there is a place for all.
TEST_F(RetentionTest, APartIsGivenUpWhateverIsRead) {
  RigOptions o = second_chance();
  o.kept_bytes = 16 << 20;
  start(o);
  image_->memory().set_recording(false);
  constexpr uint64_t kBytes = 32 << 20, kExtent = 64 << 10;
  for (uint64_t off = 0; off < kBytes; off += kExtent) ASSERT_TRUE(rig_->fill(off, kExtent));
  const uint32_t free = rig_->table->counts().free;
  for (int round = 0; round < 8; round++) {
    for (uint64_t off = 0; off < kBytes; off += kExtent)
      if (rig_->lookup({off, kSector}).kind == Piece::Kind::kHit) rig_->hit(off);
    rig_->flush();
    rig_->write_back();
    rig_->reclaim_all();
  }
  EXPECT_GT(kept().moved_bytes.load(), kBytes);
  EXPECT_LT(rig_->index->mapped_bytes(), kBytes / 2);
  EXPECT_GT(rig_->table->counts().free, free);
}

// Hazard freed-before-moved. While data is moved, writes take all space that there is.
TEST_F(RetentionTest, WhatAMoveReadsIsNotHandedOut) {
  RigOptions o = second_chance();
  o.log_reserve = 0;
  o.logical_bytes = 128 << 20;
  start(o);
  image_->memory().set_recording(false);
  const std::optional<SegId> place = rig_->table->take_for_data();
  ASSERT_TRUE(place);
  // Each range in a kset of its own, so that the first step takes all keys of a segment.
  for (uint64_t off = 0; rig_->fill(off, kRangeBytes); off += kRangeBytes) rig_->flush();
  rig_->flush();
  rig_->write_back();
  rig_->hit(0);
  rig_->table->finish_filling(*place, 0);  // free: for what stays
  uint64_t written = 0;
  bool writes = true;
  image_->memory().set_on_store([&](size_t len_bytes) {
    if (len_bytes < kPageBytes || !std::exchange(writes, false)) return;
    while (rig_->write((112 << 20) + written, 65536, 9)) written += 65536;
  });
  EXPECT_TRUE(rig_->reclaim->step().value());
  image_->memory().set_on_store(nullptr);
  EXPECT_FALSE(writes);
  EXPECT_EQ(written, 0u) << "the segment that is moved out of is not free yet";
  EXPECT_EQ(kept().moved_bytes.load(), kRangeBytes);
  EXPECT_EQ(rig_->table->counts().free, 1u) << "now it is";
  for (uint64_t off = 0; off < kRangeBytes; off += 4096) ASSERT_EQ(rig_->value(off), Rig::kBacking);
}

// Hazard moved-over-newer. The clean key would come behind the write's, and stay when that is
// reclaimed.
TEST_F(RetentionTest, WhatIsWrittenWhileItIsMovedStays) {
  for (const bool data_crc : {false, true}) {
    RigOptions o = second_chance();
    o.data_crc = data_crc;
    start(o);
    written_and_filled();
    rig_->hit(8192);
    bool writes = true;
    image_->memory().set_on_store([&](size_t len_bytes) {
      if (len_bytes == kPageBytes && std::exchange(writes, false)) rig_->write(8192, 512, 7);
    });
    EXPECT_TRUE(rig_->reclaim->step().value());
    image_->memory().set_on_store(nullptr);
    EXPECT_FALSE(writes);
    EXPECT_EQ(rig_->value(8192), 7);
    EXPECT_EQ(rig_->value(8192 + 512), Rig::kBacking);
    rig_->flush();
    attach();
    EXPECT_EQ(rig_->mapped(8192, 512), "D");
    EXPECT_EQ(rig_->value(8192), 7);
    rig_->write_back();
    EXPECT_EQ(rig_->device_value(8192), 7);
    rig_->reclaim_all();
    attach();
    EXPECT_EQ(rig_->value(8192), 7);
  }
}

TEST_F(RetentionTest, ACrashInAnyStepLosesNothing) {
  for (const bool data_crc : {false, true}) {
    RigOptions o = second_chance();
    o.data_crc = data_crc;
    start(o);
    written_and_filled();
    rig_->write(16384, 4096, 5);  // dirty
    rig_->flush();
    for (const uint64_t off : {0, 4096, 8192}) rig_->hit(off);
    image_->memory().checkpoint();
    EXPECT_TRUE(rig_->reclaim->step().value());
    rig_->close();
    int states = 0, cached = 0;
    for_each_crash({}, [&](Rig& rig) {
      states++;
      ASSERT_EQ(rig.value(0), 1);
      ASSERT_EQ(rig.value(4096), 2);
      ASSERT_EQ(rig.value(8192), Rig::kBacking);
      ASSERT_EQ(rig.value(16384), 5);
      ASSERT_FALSE(rig.dirty(0));
      ASSERT_TRUE(rig.dirty(16384));
      cached += rig.mapped(0, 512) == "C";
    });
    EXPECT_GT(states, 1);
    EXPECT_GT(cached, 0);
  }
}

// Against a model, with random writes, fills, reads, writeback and reclaim: a read gives what was
// written last, and what is clean is on the device (Rig::value() checks that).
TEST_F(RetentionTest, Random) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    RigOptions o = second_chance();
    o.data_crc = seed % 2;
    start(o);
    constexpr uint64_t kSectors = 512;
    std::vector<int> expected(kSectors, Rig::kBacking);
    uint64_t kept_before = 0;
    for (int i = 0; i < 4000; i++) {
      const uint64_t at = random() % kSectors;
      const uint64_t n = std::min<uint64_t>(1 + random() % 24, kSectors - at);
      switch (random() % 8) {
        case 0:
        case 1:
          if (!rig_->write(at * kSector, n * kSector, i + 1)) break;
          std::fill_n(expected.begin() + static_cast<ptrdiff_t>(at), n, i + 1);
          break;
        case 2:
          for (uint64_t k = at; k < at + n; k++)
            if (rig_->lookup({k * kSector, kSector}).kind == Piece::Kind::kMiss)
              rig_->fill(k * kSector, kSector);
          break;
        case 3:
          rig_->flush();
          if (random() % 2) rig_->write_back();
          break;
        case 4:
          ASSERT_TRUE(rig_->reclaim->step().ok());
          break;
        case 5:
          if (random() % 20 == 0) {
            rig_->flush();
            kept_before += kept().moved_keys.load();
            attach();
          }
          break;
        default:
          ASSERT_EQ(rig_->value(at * kSector), expected[at]);
          if (rig_->lookup({at * kSector, kSector}).kind == Piece::Kind::kHit)
            rig_->hit(at * kSector);
      }
    }
    for (uint64_t at = 0; at < kSectors; at++) ASSERT_EQ(rig_->value(at * kSector), expected[at]);
    EXPECT_GT(kept_before + kept().moved_keys.load(), 0u);
  }
}

}  // namespace
}  // namespace pcache
