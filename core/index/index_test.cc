// SPDX-License-Identifier: GPL-2.0-or-later
// The index's rules one by one; overlaps are in index_overlap_test.cc.
#include "index/index.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "index/index_model.h"

namespace pcache {
namespace {

constexpr uint64_t kDevice = 2ull * kRangeBytes + 5 * kSectorBytes;

std::vector<Piece> look(const Index& index, const Extent& e, size_t room = 64) {
  std::vector<Piece> pieces(room);
  Index::Snapshot snapshot;
  pieces.resize(index.lookup(e, pieces, &snapshot));
  return pieces;
}

TEST(IndexOptions, NonsenseIsRefused) {
  EXPECT_EQ(Index::create({.device_bytes = 0}).error().code, EINVAL);
  EXPECT_EQ(Index::create({.device_bytes = 1000}).error().code, EINVAL);
  EXPECT_EQ(Index::create({.device_bytes = 4096, .stripes = 0}).error().code, EINVAL);
  EXPECT_EQ(Index::create({.device_bytes = 4096, .stripes = 3}).error().code, EINVAL);
}

class Rules : public testing::TestWithParam<bool> {
 protected:
  IndexModel m_{{.device_bytes = kDevice, .stripes = 2, .with_crc = GetParam()}};
};

TEST_P(Rules, EmptyIndexIsOneMiss) {
  EXPECT_EQ(m_.verify(sectors(0, 8192)), 1u);
  EXPECT_EQ(m_.verify(sectors(16384, 5)), 1u);
  EXPECT_EQ(m_.index().memory_bytes(), 0u);
}

TEST_P(Rules, FirstAndLastSectorsOfRangesAndDevice) {
  for (const uint64_t s : {0, 8191, 8192, 16383, 16384, 16388})
    m_.insert(sectors(s, 1), {place(1, static_cast<uint32_t>(s)), false, 1});
  m_.verify_all();
  m_.insert(sectors(0, 8192), {place(2, 0), false, 2});
  m_.insert(sectors(16384, 5), {place(3, 0), false, 2});
  EXPECT_EQ(m_.verify(sectors(0, 8192)), 1u);
  EXPECT_EQ(m_.verify(sectors(16384, 5)), 1u);
  m_.verify_all();
}

TEST_P(Rules, WholePageJoinsSplitPage) {
  m_.insert(sectors(80, 8), {place(1, 0), false, 1});
  const uint64_t plain = m_.index().memory_bytes();
  m_.insert(sectors(83, 2), {place(2, 0), false, 2});
  EXPECT_GT(m_.index().memory_bytes(), plain);
  m_.insert(sectors(80, 8), {place(3, 0), false, 3});
  EXPECT_EQ(m_.index().memory_bytes(), plain);
  m_.verify_all();
}

// In a whole page and in a split one; a neighbour of the same place that is data is no part of it.
TEST(Zeros, StayZerosWhateverBecomesOfThePage) {
  for (const bool with_crc : {false, true}) {
    const auto index =
        Index::create({.device_bytes = kDevice, .stripes = 2, .with_crc = with_crc}).take();
    const IndexAlone alone;
    ASSERT_TRUE(index->insert(sectors(0, 16), {place(1, 0), false, 1, true}).ok());
    ASSERT_TRUE(index->insert(sectors(16, 8), {place(1, 16), false, 1, false}).ok());
    ASSERT_TRUE(index->insert(sectors(3, 1), {place(2, 0), false, 2, false}).ok());
    const auto kinds = [&] {
      std::string text;
      for (uint64_t s = 0; s < 24; s++) {
        const Piece piece = look(*index, sectors(s, 1)).at(0);
        text += piece.kind != Piece::Kind::kHit ? '.' : piece.zeros ? '0' : 'd';
      }
      return text;
    };
    EXPECT_EQ(kinds(), "000d000000000000dddddddd");
    index->mark_clean(sectors(0, 16), place(1, 0));
    if (with_crc) index->set_crc(sectors(16, 8), place(1, 16), 7);
    EXPECT_EQ(kinds(), "000d000000000000dddddddd");
    EXPECT_TRUE(look(*index, sectors(0, 3)).at(0).clean);
    EXPECT_EQ(index->remove(sectors(0, 16), place(1, 0)), 15 * kSectorBytes);
    EXPECT_EQ(kinds(), "...d............dddddddd");
    ASSERT_TRUE(index->insert(sectors(0, 8), {place(3, 0), false, 1, true}).ok());
    EXPECT_EQ(kinds(), "00000000........dddddddd");
  }
}

TEST_P(Rules, EightContiguousSectorsJoinUnlessTheyVerifyApart) {
  for (uint32_t i = 0; i < 8; ++i) m_.insert(sectors(80 + i, 1), {place(1, 40 + i), false, 9});
  EXPECT_EQ(m_.verify(sectors(80, 8)), GetParam() ? 8u : 1u);
  m_.verify_all();
}

TEST_P(Rules, CleanAndDirtyHalvesJoinWhenBothAreClean) {
  m_.insert(sectors(80, 8), {place(1, 40), false, 9});
  m_.mark_clean(sectors(80, 4), place(1, 40));
  EXPECT_EQ(m_.verify(sectors(80, 8)), 2u);
  m_.mark_clean(sectors(80, 8), place(1, 40));
  EXPECT_EQ(m_.verify(sectors(80, 8)), 1u);
  m_.verify_all();
}

TEST_P(Rules, EndOfASegmentIsNotContinuedByTheNext) {
  m_.insert(sectors(80, 8), {place(1, 32760), false, 9});
  m_.insert(sectors(88, 8), {place(2, 0), false, 9});
  EXPECT_EQ(m_.verify(sectors(80, 16)), 2u);
}

TEST_P(Rules, LookupStopsWhenFull) {
  for (uint32_t i = 0; i < 6; ++i) m_.insert(sectors(16 * i, 8), {place(1, 100 * i), false, 1});
  const auto pieces = look(m_.index(), sectors(0, 96), 3);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[2].extent, sectors(16, 8));
  EXPECT_EQ(look(m_.index(), sectors(4, 92), 1)[0].extent, sectors(4, 4));
}

TEST_P(Rules, SnapshotEndsWithAnyChangeOfItsRangeOnly) {
  Index& index = m_.index();
  Piece piece;
  Index::Snapshot none, some;
  index.lookup(sectors(80, 8), {&piece, 1}, &none);
  EXPECT_TRUE(index.still_valid(none));
  m_.insert(sectors(80, 8), {place(1, 0), false, 1});
  EXPECT_FALSE(index.still_valid(none));
  index.lookup(sectors(80, 8), {&piece, 1}, &some);
  m_.insert(sectors(8192, 8), {place(1, 8), false, 1});
  EXPECT_TRUE(index.still_valid(some));
  m_.insert(sectors(88, 8), {place(1, 16), false, 1});
  EXPECT_FALSE(index.still_valid(some));
  // The shard is given back, and used for the range two further on, of the same stripe.
  index.lookup(sectors(80, 8), {&piece, 1}, &some);
  m_.remove(sectors(80, 16), place(1, 0));
  m_.remove(sectors(88, 8), place(1, 16));
  m_.insert(sectors(16384, 1), {place(1, 24), false, 1});
  EXPECT_FALSE(index.still_valid(some));
  m_.verify_all();
}

TEST_P(Rules, ShardThatWentToAnotherRangeIsNoticed) {
  // A reader read the handle from the directory, and slept until the shard served range 2.
  m_.insert(sectors(0, 8), {place(1, 0), false, 1});
  Piece piece;
  Index::Snapshot snapshot;
  m_.index().lookup(sectors(0, 8), {&piece, 1}, &snapshot);
  snapshot.range = 2;
  EXPECT_FALSE(m_.index().still_valid(snapshot));
  m_.insert(sectors(16384, 1), {place(1, 8), false, 1});
  EXPECT_FALSE(m_.index().still_valid(snapshot));
}

TEST_P(Rules, FillIsInstalledWhereNothingNewerCame) {
  m_.begin_fill(sectors(64, 64), {1});
  EXPECT_EQ(look(m_.index(), sectors(64, 64))[0].token, FillToken{1});
  m_.insert(sectors(70, 3), {place(1, 0), false, 1});
  m_.insert(sectors(96, 8), {place(1, 8), false, 2});
  const auto runs = m_.finish_fill(sectors(64, 64), {1}, {place(2, 0), true, 3});
  EXPECT_EQ(runs, (std::vector<Extent>{sectors(64, 6), sectors(73, 23), sectors(104, 24)}));
  m_.verify_all();
}

TEST_P(Rules, WrittenAndRemovedMeanwhileIsNotFilledEither) {
  m_.begin_fill(sectors(64, 8), {1});
  m_.insert(sectors(64, 8), {place(1, 0), false, 1});
  m_.remove(sectors(64, 8), place(1, 0));
  EXPECT_TRUE(m_.finish_fill(sectors(64, 8), {1}, {place(2, 0), true, 3}).empty());
  EXPECT_EQ(m_.index().memory_bytes(), 0u);
}

TEST_P(Rules, SecondFillLeavesTheFirstAlone) {
  m_.begin_fill(sectors(64, 20), {1});
  m_.begin_fill(sectors(70, 40), {2});
  m_.verify_all();
  EXPECT_EQ(m_.finish_fill(sectors(70, 40), {2}, {place(2, 0), true, 3}),
            (std::vector<Extent>{sectors(84, 26)}));
  m_.abandon_fill(sectors(60, 60), {1});
  EXPECT_EQ(m_.verify(sectors(64, 64)), 3u);
  m_.verify_all();
}

TEST_P(Rules, FillFinishedInPartsAndAbandonedForTheRest) {
  m_.begin_fill(sectors(64, 64), {1});
  m_.finish_fill(sectors(67, 10), {1}, {place(2, 0), true, 3});
  m_.verify_all();
  m_.finish_fill(sectors(77, 30), {1}, {place(2, 500), true, 3});
  m_.abandon_fill(sectors(64, 64), {1});
  m_.verify_all();
  EXPECT_EQ(m_.index().mapped_bytes(), 40u * kSectorBytes);
}

TEST_P(Rules, FinishedFillIsVerifiableBeforeItsRunsHaveTheirOwnCrc) {
  m_.begin_fill(sectors(64, 64), {1});
  m_.insert(sectors(70, 3), {place(1, 0), false, 1});
  m_.finish_fill(sectors(64, 64), {1}, {place(2, 8), true, 0x77}, /*set_crc=*/false);
  m_.verify_all();  // whole extent: 64 sectors from place(2, 8)
}

TEST_P(Rules, SetCrcOfAPartSplitsWhatVerifiedTogether) {
  m_.insert(sectors(64, 64), {place(1, 0), false, 0xa});
  m_.set_crc(sectors(67, 9), place(1, 3), 0xb);
  EXPECT_EQ(m_.verify(sectors(64, 64)), GetParam() ? 3u : 1u);
  m_.set_crc(sectors(80, 9), place(1, 3), 0xc);  // not the place it is mapped to
  m_.verify_all();
}

TEST_P(Rules, CutsKeepTheWholeExtentTheyAreVerifiedBy) {
  m_.insert(sectors(0, 8192), {place(1, 0), false, 0xa});
  m_.insert(sectors(4001, 1), {place(2, 0), false, 0xb});
  const auto pieces = look(m_.index(), sectors(4000, 192));
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[2].pos, place(1, 4002));
  EXPECT_EQ(pieces[2].whole_pos, GetParam() ? place(1, 0) : place(1, 4002));
  EXPECT_EQ(pieces[2].whole_len, GetParam() ? kRangeBytes : 190 * kSectorBytes);
  EXPECT_EQ(pieces[2].crc, GetParam() ? 0xau : 0u);
  m_.verify_all();
}

TEST_P(Rules, RemoveAndMarkCleanActOnTheExactPlaceOnly) {
  m_.insert(sectors(64, 32), {place(1, 0), false, 1});
  m_.insert(sectors(70, 4), {place(2, 6), false, 1});
  EXPECT_EQ(m_.mark_clean(sectors(64, 32), place(1, 1)), 0u);
  EXPECT_EQ(m_.remove(sectors(64, 32), place(3, 0)), 0u);
  EXPECT_EQ(m_.mark_clean(sectors(64, 32), place(1, 0)), 28u * kSectorBytes);
  EXPECT_EQ(m_.mark_clean(sectors(64, 32), place(1, 0)), 0u);
  EXPECT_EQ(m_.remove(sectors(72, 8), place(1, 8)), 6u * kSectorBytes);
  m_.verify_all();
}

TEST_P(Rules, NothingIsDoneWhereNothingIs) {
  EXPECT_EQ(m_.remove(sectors(64, 32), place(1, 1)), 0u);
  EXPECT_EQ(m_.mark_clean(sectors(64, 32), place(1, 1)), 0u);
  m_.abandon_fill(sectors(64, 32), {5});
  EXPECT_TRUE(m_.finish_fill(sectors(64, 32), {5}, {place(1, 0), true, 1}).empty());
  EXPECT_EQ(m_.index().memory_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Crc, Rules, testing::Bool());

TEST(IndexMemory, ExhaustionLeavesEverythingAsItWas) {
  const IndexAlone alone;
  IndexModel m({.device_bytes = kDevice, .stripes = 1, .max_blocks = 2});
  m.insert(sectors(0, 8), {place(1, 0), false, 1});
  m.insert(sectors(64, 8), {place(1, 8), true, 1});
  Index& index = m.index();
  EXPECT_EQ(index.insert(sectors(128, 8), {place(2, 0)}).error().code, ENOMEM);
  EXPECT_EQ(index.insert(sectors(0, 4), {place(2, 0)}).error().code, ENOMEM);
  EXPECT_EQ(index.insert(sectors(0, 256), {place(2, 0)}).error().code, ENOMEM);
  EXPECT_EQ(index.insert(sectors(8192, 8), {place(2, 0)}).error().code, ENOMEM);
  EXPECT_EQ(index.begin_fill(sectors(68, 256), {4}).error().code, ENOMEM);
  m.verify_all();
  m.insert(sectors(8, 8), {place(2, 0), false, 1});
  // Half of a clean page cannot be kept: all of it is forgotten, never too little.
  EXPECT_EQ(index.mark_clean(sectors(0, 4), place(1, 0)), 0u);
  EXPECT_EQ(index.remove(sectors(64, 4), place(1, 8)), 8u * kSectorBytes);
  EXPECT_EQ(index.mapped_bytes(), 16u * kSectorBytes);
  m.insert(sectors(0, 4), {place(2, 100), false, 1});  // in the block that this gave back
}

// Damaged dirty data stays in the index when reclaim passes an older key of it.
TEST(Index, RemoveLeavesWhatIsDirty) {
  const IndexAlone alone;
  IndexModel m({.device_bytes = kDevice, .stripes = 1});
  m.insert(sectors(0, 8), {place(1, 0), false, 1});
  m.insert(sectors(16, 8), {place(1, 16), false, 1});
  m.mark_clean(sectors(16, 4), place(1, 16));
  EXPECT_EQ(m.index().remove(sectors(0, 8), place(1, 0)), 0u);
  EXPECT_EQ(m.index().remove(sectors(16, 8), place(1, 16)), 4u * kSectorBytes);
  EXPECT_EQ(m.index().mapped_bytes(), 12u * kSectorBytes);
}

TEST(Index, EraseTakesAllThatIsMapped) {
  const IndexAlone alone;
  IndexModel m({.device_bytes = kDevice, .stripes = 1});
  m.insert(sectors(0, 8), {place(1, 0), false, 1});
  m.insert(sectors(12, 8), {place(1, 16), true, 1});
  ASSERT_TRUE(m.index().erase(sectors(4, 12)).ok());
  EXPECT_EQ(m.index().mapped_bytes(), 8u * kSectorBytes);
  Piece pieces[4];
  Index::Snapshot snapshot;
  ASSERT_EQ(m.index().lookup(sectors(0, 20), pieces, &snapshot), 3u);
  EXPECT_EQ(pieces[0].extent, sectors(0, 4));
  EXPECT_EQ(pieces[1].kind, Piece::Kind::kMiss);
  EXPECT_EQ(pieces[2].extent, sectors(16, 4));
  ASSERT_TRUE(m.index().erase(sectors(8192, 8)).ok()) << "where nothing is";
}

// By a part of a range, by ranges, and past what the directory's and the arenas' first pages hold.
TEST(IndexGrows, InPlaceWithAllThatItHas) {
  const IndexAlone alone;
  constexpr uint64_t kOld = 2 * kRangeBytes + kPageBytes, kGiB = uint64_t{1} << 30;
  auto made = Index::create({.device_bytes = kOld, .stripes = 1, .most_bytes = 4096 * kGiB});
  ASSERT_TRUE(made.ok());
  Index& index = *made.value();
  uint64_t last = kOld - kPageBytes;
  ASSERT_TRUE(index.insert({last, kPageBytes}, {place(1, 0), false, 1}).ok());
  uint32_t seg = 1;
  for (const uint64_t bytes : {kOld + kPageBytes, kOld + kRangeBytes, kGiB, 4096 * kGiB}) {
    ASSERT_TRUE(index.grow(bytes).ok()) << bytes;
    for (const uint64_t off : {last, bytes - kPageBytes}) {
      Piece piece;
      Index::Snapshot snapshot;
      ASSERT_EQ(index.lookup({off, kPageBytes}, {&piece, 1}, &snapshot), 1u);
      EXPECT_EQ(piece.kind, off == last ? Piece::Kind::kHit : Piece::Kind::kMiss) << off;
      EXPECT_EQ(piece.pos.seg.v, off == last ? seg : 0u);
    }
    last = bytes - kPageBytes;
    ASSERT_TRUE(index.insert({last, kPageBytes}, {place(++seg, 0), false, 1}).ok());
  }
  EXPECT_EQ(index.mapped_bytes(), 5 * kPageBytes);
}

// As a device of which less is there, when what it had grown to before was not recorded.
TEST(IndexGrows, ToLessNothingChanges) {
  constexpr uint64_t kLess = 2 * kRangeBytes, kMore = 4 * kRangeBytes;
  auto index =
      Index::create({.device_bytes = kRangeBytes, .stripes = 1, .most_bytes = kMore}).take();
  for (const uint64_t bytes : {kMore, kMore, kLess}) ASSERT_TRUE(index->grow(bytes).ok()) << bytes;
  const IndexAlone alone;
  ASSERT_TRUE(index->insert({kMore - kPageBytes, kPageBytes}, {place(1, 0), false, 1}).ok());
  EXPECT_EQ(look(*index, {kMore - kPageBytes, kPageBytes})[0].pos, place(1, 0));
}

// As many pages as it has grown by have room: the arenas grow, too.
TEST(IndexGrows, ThereIsRoomForEachPage) {
  constexpr uint64_t kOld = 4 << 20, kNew = 256 << 20;
  auto index = Index::create({.device_bytes = kOld, .stripes = 1, .most_bytes = kNew}).take();
  const auto insert_all = [&](uint64_t from, uint64_t end) {
    for (uint64_t off = from; off < end; off += kPageBytes)  // in two pieces: a block each
      for (const uint64_t part : {0, 1024}) {
        const IndexAlone alone;
        ASSERT_TRUE(index->insert({off + part, 512}, {place(1, 0), false, 1}).ok()) << off;
      }
  };
  insert_all(0, kOld);
  ASSERT_TRUE(index->grow(kNew).ok());
  insert_all(kOld, kNew);
  EXPECT_EQ(index->mapped_bytes(), kNew / kPageBytes * 1024);
}

TEST(IndexGrows, NotPastItsAddressSpace) {
  auto index =
      Index::create({.device_bytes = kDevice, .stripes = 1, .most_bytes = uint64_t{8} << 30})
          .take();
  const auto grown = index->grow(uint64_t{1} << 40);
  ASSERT_FALSE(grown.ok());
  EXPECT_EQ(grown.error().code, EFBIG);
  EXPECT_NE(grown.error().text.find("address space for"), std::string::npos) << grown.error().text;
  ASSERT_TRUE(index->grow(uint64_t{8} << 30).ok());
}

#if !PCACHE_TEST_SANITIZED
// Where address space is scarce (ulimit -v) it has what the device needs: also if there is enough
// for the directory and the shards of a larger one, but not for the blocks of this one beside them.
TEST(IndexGrows, WithoutAddressSpaceItStaysAsItIs) {
  constexpr uint64_t kMiB = 1 << 20, kGiB = 1024 * kMiB;
  const struct {
    uint64_t bytes, most_bytes, address_space;
  } rows[] = {{kDevice, 1024 * kGiB, 1024 * kMiB}, {32 * kGiB, 4096 * kGiB, 900 * kMiB}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.bytes);
    rlimit before;
    ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlimit little{pages * 4096 + row.address_space, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_AS, &little), 0);
    auto made =
        Index::create({.device_bytes = row.bytes, .stripes = 1, .most_bytes = row.most_bytes});
    ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
    ASSERT_TRUE(made.ok()) << made.error().text;
    EXPECT_EQ(made.value()->grow(row.most_bytes).error().code, EFBIG);
    const IndexAlone alone;
    EXPECT_TRUE(made.value()->insert(sectors(0, 8), {place(1, 0), false, 1}).ok());
  }
}
#endif

TEST(IndexMemory, FillsGiveWayToExhaustion) {
  const IndexAlone alone;
  IndexModel m({.device_bytes = kDevice, .stripes = 1, .max_blocks = 1});
  m.begin_fill(sectors(0, 16), {4});
  Extent runs[4];
  EXPECT_FALSE(m.index().finish_fill(sectors(0, 12), {4}, {place(1, 0), true}, runs).has_value());
  m.verify_all();
  m.index().abandon_fill(sectors(0, 12), {4});
  EXPECT_EQ(m.index().memory_bytes(), 0u);
}

TEST(IndexMemory, ReserveIsForWhatCannotFail) {
  const IndexAlone alone;
  IndexModel m({.device_bytes = kDevice, .stripes = 1, .max_blocks = 32});
  for (uint32_t i = 0; i < 30; ++i) m.insert(sectors(64 * i, 8), {place(1, 8 * i), false, 1});
  EXPECT_EQ(m.index().insert(sectors(64 * 30, 8), {place(2, 0)}).error().code, ENOMEM);
  m.remove(sectors(0, 4), place(1, 0));
  m.mark_clean(sectors(64, 4), place(1, 8));
  m.verify_all();
}

#if !PCACHE_TEST_SANITIZED
// Anonymous memory only: when memory is short the kernel drops pages of the program's file.
int64_t resident_bytes() {
  long total = 0, resident = 0, shared = 0;
  FILE* f = fopen("/proc/self/statm", "r");
  if (f == nullptr || fscanf(f, "%ld %ld %ld", &total, &resident, &shared) != 3) ADD_FAILURE();
  if (f != nullptr) fclose(f);
  return (resident - shared) * sysconf(_SC_PAGESIZE);
}

TEST(IndexMemory, HugeSparseDevicesCostAlmostNothing) {
  const IndexAlone alone;
  for (const uint64_t device : {8ull << 40, 1ull << 50}) {
    const int64_t before = resident_bytes();
    auto index = Index::create({.device_bytes = device, .stripes = 64, .with_crc = true}).take();
    EXPECT_LT(resident_bytes() - before, 1 << 20);
    ASSERT_TRUE(index->insert({0, 4096}, {place(1, 0)}).ok());
    ASSERT_TRUE(index->insert({device - 4096, 4096}, {place(1, 8)}).ok());
    EXPECT_EQ(look(*index, {device - 4096, 4096})[0].pos, place(1, 8));
    EXPECT_LT(resident_bytes() - before, 6 << 20);  // two huge pages, and small ones
  }
}

TEST(IndexMemory, NoAddressSpaceIsAnError) {
  auto try_it = [] {
    const rlimit limit{1u << 30, 1u << 30};
    setrlimit(RLIMIT_AS, &limit);
    const auto index = Index::create({.device_bytes = 8ull << 40});
    _exit(!index.ok() && index.error().code == ENOMEM ? 0 : 1);
  };
  EXPECT_EXIT(try_it(), testing::ExitedWithCode(0), "");
}
#endif

}  // namespace
}  // namespace pcache
