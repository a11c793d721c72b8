// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <sstream>

#include "testing/image.h"

namespace pcache {
namespace {

using media::Key;
using media::kKeyClean;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kLogicalBytes = 64 << 20;
constexpr SegId kA{2}, kB{3};  // data segments

class ReplayTest : public ::testing::Test {
 protected:
  static Key key(uint64_t sector, CachePos data, uint64_t gen = 0, uint32_t flags = 0) {
    return make_key({sector * kSectorBytes, kSectorBytes}, data, gen, flags);
  }
  // Uses a fresh table and index; stores are forbidden meanwhile. By one thread and by three, which
  // must find the same.
  Result<ReplayResult> run(bool raise_first = false) {
    const auto alone = run_by(1, raise_first);
    const std::string of_one = described(alone);
    auto result = run_by(3, raise_first);
    EXPECT_EQ(described(result), of_one);
    return result;
  }
  Result<ReplayResult> run_by(unsigned threads, bool raise_first) {
    const Bounds bounds{6, kLogicalBytes, block_bytes_};
    Tails tails;
    EXPECT_TRUE(tails.load(image_.pmem(), bounds).ok());
    image_.memory().forbid_stores();
    table_ = image_.table(0);
    index_ = Index::create({kLogicalBytes, 4, false, 0}).take();
    if (raise_first) {
      EXPECT_TRUE(raise_generations(image_.pmem(), *table_, tails, bounds).ok());
    }
    auto result = replay(image_.pmem(), *table_, *index_, tails, bounds, threads);
    image_.memory().allow_stores();
    return result;
  }
  // What was found, with each sector of the index.
  std::string described(const Result<ReplayResult>& result) {
    if (!result) return result.error().text;
    const ReplayResult& found = result.value();
    std::ostringstream text;
    text << found.head.seg.v << ":" << found.head.off << " " << found.ksets << " " << found.keys
         << " " << found.dead_keys << " " << found.dead_dirty_keys << " " << found.dirty_ksets
         << " " << found.dirty_keys << " " << found.dirty_bytes << " " << found.dirty_zero_bytes
         << " " << found.lost.bytes() << " " << found.repeated.size() << " " << found.dirty_tail_met
         << found.torn_tail << found.generations_lost;
    if (found.generations_lost) return text.str();  // the rest means nothing
    for (uint64_t sector = 0; sector < kLogicalBytes / kSectorBytes; sector++)
      if (const Piece piece = at(sector); piece.kind != Piece::Kind::kMiss)
        text << " " << sector << "=" << piece.pos.seg.v << ":" << piece.pos.off << piece.clean
             << piece.zeros;
    return text.str();
  }
  std::string error() {
    const auto result = run();
    return result ? "no error" : result.error().text;
  }
  Piece at(uint64_t sector) {
    Piece piece;
    Index::Snapshot snapshot;
    index_->lookup({sector * kSectorBytes, kSectorBytes}, {&piece, 1}, &snapshot);
    return piece;
  }
  bool hit(uint64_t sector) { return at(sector).kind == Piece::Kind::kHit; }

  Image image_{6};
  uint32_t block_bytes_ = kSectorBytes;
  std::unique_ptr<SegmentTable> table_;
  std::unique_ptr<Index> index_;
};

TEST_F(ReplayTest, AnEmptyLog) {
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().head, CachePos{});
  EXPECT_EQ(result.value().ksets, 0u);
  EXPECT_FALSE(result.value().torn_tail);
  EXPECT_EQ(table_->counts().log, 1u);
  EXPECT_EQ(table_->counts().data, 0u);
}

TEST_F(ReplayTest, LaterKeysWin) {
  CachePos pos = image_.kset({}, {key(7, {kA, 0}), key(8, {kA, 512})});
  pos = image_.kset(image_.last(pos, SegId{1}), {key(7, {kB, 1024})});
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().head, pos);
  EXPECT_EQ(result.value().ksets, 2u);
  EXPECT_EQ(result.value().keys, 3u);
  EXPECT_EQ(at(7).pos, (CachePos{kB, 1024}));
  EXPECT_EQ(at(8).pos, (CachePos{kA, 512}));
  EXPECT_FALSE(hit(9));
  EXPECT_EQ(table_->counts().log, 2u);
  EXPECT_EQ(table_->counts().data, 2u);
}

// More than is kept for the index before it is changed, of all its ranges, over and over.
TEST_F(ReplayTest, ALongLog) {
  image_.generation(kA, 5);
  std::mt19937_64 random(7);
  CachePos pos{};
  std::vector<CachePos> newest(kLogicalBytes / kSectorBytes);
  std::vector<bool> mapped(newest.size());
  constexpr uint32_t kSlots = media::kSegDataBytes / kSectorBytes;
  for (uint32_t i = 0, slot = 0; i < 400; i++) {
    std::vector<Key> keys;
    for (uint32_t k = 0; k < media::kKeysPerKset; k++) {
      const uint64_t sector = random() % newest.size();
      const bool dead = random() % 8 == 0;
      const CachePos data{dead ? kA : kB, slot++ % kSlots * kSectorBytes};
      keys.push_back(key(sector, data, dead ? 4 : 0));
      newest[sector] = data;
      mapped[sector] = !dead;
    }
    pos = image_.kset(pos, keys);
  }
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().keys + result.value().dead_keys, 400 * media::kKeysPerKset);
  for (uint64_t sector = 0; sector < newest.size(); sector++) {
    ASSERT_EQ(hit(sector), mapped[sector]) << sector;
    if (!mapped[sector]) continue;
    ASSERT_EQ(at(sector).pos, newest[sector]) << sector;
  }
}

// Hazard dead-key-references: replay counts exactly the keys for which reclaim will drop a
// reference.
TEST_F(ReplayTest, DeadKeysAreNotCountedAndNotEntered) {
  image_.generation(kA, 5);
  image_.kset({},
              {key(1, {kA, 0}, 4), key(2, {kA, 512}, 5), key(3, {kA, 1024}, 0), key(4, {kB, 0})});
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().keys, 2u);
  EXPECT_EQ(result.value().dead_keys, 2u);
  EXPECT_FALSE(hit(1));
  EXPECT_TRUE(hit(2));
  EXPECT_FALSE(hit(3));
  table_->drop_refs(kA);  // for the one live key
  EXPECT_EQ(table_->generation(kA), 6u);
}

// A crash of reclaim leaves dead keys before dirty_tail, and never behind it.
TEST_F(ReplayTest, DeadDirtyKeysBehindDirtyTailAreLost) {
  image_.generation(kA, 5);
  const CachePos second = image_.kset({}, {key(1, {kA, 0}, 4)});
  image_.dirty_tail(second);
  const CachePos third =
      image_.kset(second, {key(2, {kA, 512}, 4), key(3, {kA, 1024}, 4), key(4, {kA, 1536}, 5)});
  image_.kset(third, {key(3, {kB, 0})});
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().dead_keys, 3u);
  EXPECT_EQ(result.value().dead_dirty_keys, 2u);
  EXPECT_EQ(result.value().lost.size(), 1u);
  EXPECT_EQ(result.value().lost.bytes(), kSectorBytes) << "sector 3 was written again";
}

TEST_F(ReplayTest, ASegmentWithOnlyDeadKeysIsFree) {
  image_.generation(kA, 1);
  image_.kset({}, {key(1, {kA, 0}, 0)});
  ASSERT_TRUE(run().ok());
  EXPECT_EQ(table_->counts().data, 0u);
}

// The dead key's segment may since have become part of the log.
TEST_F(ReplayTest, ADeadKeyInALogSegmentIsFine) {
  image_.generation(SegId{1}, 1);
  image_.kset(image_.last(image_.kset({}, {key(1, {SegId{1}, 0}, 0)}), SegId{1}),
              {key(2, {kA, 0})});
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().dead_keys, 1u);
}

// The dead key's data was newer than that of the keys before it, and is on the backing device now:
// the older data must not come back.
TEST_F(ReplayTest, ADeadKeyErasesWhatIsOlder) {
  image_.generation(kA, 5);
  CachePos pos = image_.kset({}, {make_key({0, 8 * kSectorBytes}, {kB, 0}),
                                  make_key({kRangeBytes, kSectorBytes}, {kB, 4096})});
  pos = image_.kset(pos, {make_key({2 * kSectorBytes, 3 * kSectorBytes}, {kA, 0}, 4)});
  image_.kset(pos, {key(3, {kB, 8192})});
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().dead_keys, 1u);
  EXPECT_EQ(result.value().keys, 3u) << "an erased key keeps its reference";
  EXPECT_EQ(at(1).pos, (CachePos{kB, 512}));
  EXPECT_FALSE(hit(2));
  EXPECT_EQ(at(3).pos, (CachePos{kB, 8192})) << "younger than the dead one";
  EXPECT_FALSE(hit(4));
  EXPECT_EQ(at(5).pos, (CachePos{kB, 2560}));
  EXPECT_TRUE(hit(kRangeBytes / kSectorBytes));
  table_->drop_refs(kB, 3);
  EXPECT_EQ(table_->generation(kB), 1u);
}

// Dirty data that is not in whole blocks of the device could never be written back.
TEST_F(ReplayTest, DirtyDataMustFitTheDevicesBlocks) {
  block_bytes_ = 4096;
  image_.kset({}, {make_key({0, 8192}, {kA, 0}), key(17, {kA, 8192}, 0, kKeyClean)});
  ASSERT_TRUE(run().ok()) << "whole blocks, and clean data of any size";
  for (const Key& bad : {make_key({4096, 512}, {kA, 0}), make_key({4608, 4096}, {kA, 0}),
                         make_key({3584, 512}, {kA, 0})}) {
    image_.kset({}, {make_key({0, 8192}, {kA, 0}), bad});
    EXPECT_THAT(error(), HasSubstr("log at segment 0:0: key 1: dirty range " +
                                   std::to_string(bad.off) + "+" + std::to_string(bad.len) +
                                   " cannot be written to a backing device with blocks of 4096"));
    EXPECT_EQ(run().error().code, EINVAL);
  }
}

TEST_F(ReplayTest, DataBeforeDirtyTailNeedNotFitTheDevicesBlocks) {
  block_bytes_ = 4096;
  image_.dirty_tail(image_.kset({}, {key(1, {kA, 0})}));
  EXPECT_TRUE(run().ok());
}

TEST_F(ReplayTest, ALiveKeyInALogSegmentIsRefused) {
  image_.kset({}, {key(1, {SegId{0}, 0})});
  EXPECT_THAT(error(),
              HasSubstr("log at segment 0:0: key 0: data in segment 0, which is part of the log"));
}

TEST_F(ReplayTest, ALogThatLeadsIntoLiveDataIsRefused) {
  image_.last(image_.kset({}, {key(1, {kA, 0})}), kA);
  EXPECT_THAT(error(), HasSubstr("leads to segment 2, which holds data of live keys"));
}

TEST_F(ReplayTest, KeysOutOfBoundsAreRefusedByPlaceAndNumber) {
  const uint64_t past = kLogicalBytes / kSectorBytes;
  const CachePos second = image_.kset({}, {key(1, {kA, 0})});
  image_.kset(second, {key(2, {kA, 0}), key(past, {kA, 0})});
  EXPECT_THAT(error(), HasSubstr("log at segment 0:64: key 1: range 67108864+512 is past"));
  image_.kset(second, {key(2, {SegId{6}, 0})});
  EXPECT_THAT(error(), HasSubstr("key 0: data in segment 6 of 6"));
}

TEST_F(ReplayTest, CleanIsWhatIsMarkedOrLiesBeforeDirtyTail) {
  const CachePos dirty_tail = image_.kset({}, {key(1, {kA, 0}), key(2, {kA, 512})});
  image_.kset(dirty_tail,
              {key(2, {kA, 1024}), key(3, {kA, 2048}, 0, kKeyClean), key(4, {kA, 4096})});
  image_.dirty_tail(dirty_tail);
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_TRUE(at(1).clean);
  EXPECT_FALSE(at(2).clean);
  EXPECT_TRUE(at(3).clean);
  EXPECT_FALSE(at(4).clean);
  EXPECT_EQ(result.value().ksets, 2u);
  EXPECT_EQ(result.value().dirty_ksets, 1u);
  EXPECT_EQ(result.value().dirty_keys, 2u);
  EXPECT_EQ(result.value().dirty_bytes, 2u * kSectorBytes);
}

TEST_F(ReplayTest, StartsAtKeyTail) {
  const CachePos second = image_.kset({}, {key(1, {kA, 0})});
  image_.kset(second, {key(2, {kA, 512})});
  image_.dirty_tail(second);
  image_.key_tail(second);
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().keys, 1u);
  EXPECT_FALSE(hit(1));
}

TEST_F(ReplayTest, EveryPlaceWhereDirtyTailMayStand) {
  const CachePos second = image_.kset({}, {key(1, {kA, 0})});
  const CachePos third = image_.last(second, SegId{1});
  const CachePos end = image_.kset(third, {key(2, {kA, 512})});
  for (const CachePos pos : {CachePos{}, second, third, end}) {
    image_.dirty_tail(pos);
    const auto result = run();
    EXPECT_TRUE(result.ok()) << pos.seg.v << ":" << pos.off;
  }
  for (const CachePos pos : {second + 8, end + 8, CachePos{SegId{4}, 0}}) {
    image_.dirty_tail(pos);
    EXPECT_THAT(error(), HasSubstr("is not a kset between")) << pos.seg.v << ":" << pos.off;
  }
}

TEST_F(ReplayTest, DirtyTailBeforeKeyTailIsRefused) {
  const CachePos second = image_.kset({}, {key(1, {kA, 0})});
  image_.kset(second, {key(2, {kA, 512})});
  image_.key_tail(second);
  EXPECT_THAT(error(), HasSubstr("dirty_tail 0:0 is not"));
}

TEST_F(ReplayTest, ALostGenerationIsToldAndTakenFromTheLog) {
  image_.generation(kA, 3);
  image_.kset({}, {key(1, {kA, 0}, 3), key(2, {kA, 512}, 4), key(3, {kA, 1024}, 4)});
  auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_TRUE(result.value().generations_lost);
  result = run(true);
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_FALSE(result.value().generations_lost);
  EXPECT_EQ(result.value().keys, 2u);
  EXPECT_EQ(result.value().dead_keys, 1u);
  EXPECT_EQ(table_->generation(kA), 4u);
  table_->persist_raised();
  EXPECT_EQ(image_.table()->generation(kA), 4u);
}

TEST_F(ReplayTest, BothGenerationReplicasTornAreTakenFromTheLog) {
  image_.generation(kA, 7);
  image_.kset({}, {key(1, {kA, 0}, 7)});
  for (const uint64_t slot : {0, 16})
    image_.memory().flip_bit(segment_gen_place(kA.v).base + slot + 8);
  EXPECT_TRUE(run().value().generations_lost);
  const auto result = run(true);
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_EQ(result.value().keys, 1u);
  EXPECT_TRUE(hit(1));
}

TEST_F(ReplayTest, RaisingChecksBoundsToo) {
  image_.kset({}, {key(1, {SegId{6}, 0}, 9)});
  Tails tails;
  ASSERT_TRUE(tails.load(image_.pmem(), {6, kLogicalBytes}).ok());
  const auto table = image_.table();
  const auto raised = raise_generations(image_.pmem(), *table, tails, {6, kLogicalBytes});
  ASSERT_FALSE(raised.ok());
  EXPECT_THAT(raised.error().text, HasSubstr("segment 6 of 6"));
}

TEST_F(ReplayTest, ATornTailIsTold) {
  const CachePos end = image_.kset({}, {key(1, {kA, 0})});
  image_.memory().poke(image_.off(end), uint64_t{1});
  const auto result = run();
  ASSERT_TRUE(result.ok()) << result.error().text;
  EXPECT_TRUE(result.value().torn_tail);
  EXPECT_EQ(result.value().head, end);
}

}  // namespace
}  // namespace pcache
