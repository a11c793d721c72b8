// SPDX-License-Identifier: GPL-2.0-or-later
// Lookups without a lock, beside writers under their stripes' locks: what still_valid() confirms
// must be a whole extent that one insert has put there.
#include <gtest/gtest.h>

#include <array>
#include <latch>
#include <random>
#include <thread>

#include "base/mutex.h"
#include "index/index_model.h"

namespace pcache {
namespace {

constexpr uint32_t kStripes = 4;
constexpr uint32_t kReaders = 2;
constexpr uint32_t kRanges = 16;
constexpr uint32_t kExtents = 8;  // per range
#if PCACHE_TEST_SANITIZED
constexpr int kChanges = 20'000;
#else
constexpr int kChanges = 200'000;
#endif

// Extents of different shapes, unaligned and over several blocks; they do not overlap.
Extent extent_of(uint32_t range, uint32_t i) {
  constexpr std::array<uint32_t, kExtents> kLen = {8, 64, 13, 200, 1, 8, 40, 27};
  constexpr std::array<uint32_t, kExtents> kSkew = {0, 0, 3, 5, 7, 8, 16, 61};
  return sectors(range * 8192ull + i * 1024 + kSkew[i], kLen[i]);
}

// All fields of an insert follow from `version`, so a reader can tell a mix of two.
Location location_of(uint32_t range, uint32_t i, uint32_t version) {
  return {place(range * kExtents + i, version % 30000), true, version * 2654435761u};
}

struct Shared {
  explicit Shared(bool crc)
      : with_crc(crc),
        index(Index::create({.device_bytes = uint64_t{kRanges} * kRangeBytes,
                             .stripes = kStripes,
                             .with_crc = crc})
                  .take()) {}
  const bool with_crc;
  std::unique_ptr<Index> index;
  std::array<Mutex, kStripes> locks;
  std::atomic<uint32_t> writers{kStripes};
  std::latch all_have_begun{kStripes + kReaders};
};

// Inserts and removes; ranges become empty now and then, so that blocks and shards are reused.
void write(Shared& s, uint32_t stripe) {
  std::mt19937 random(stripe + 1);
  std::array<std::array<uint32_t, kExtents>, kRanges> version{};
  s.all_have_begun.arrive_and_wait();
  for (int n = 0; n < kChanges; ++n) {
    const uint32_t range = stripe + kStripes * (random() % (kRanges / kStripes));
    const uint32_t i = random() % kExtents;
    const Extent e = extent_of(range, i);
    uint32_t& v = version[range][i];
    MutexLock lock(s.locks[stripe]);
    const IndexAlone alone;  // no other thread changes its ranges
    if (v != 0 && random() % 2 == 0) {
      EXPECT_EQ(s.index->remove(e, location_of(range, i, v).pos), e.len);
      v = 0;
    } else {
      v = static_cast<uint32_t>(n) + 1;
      EXPECT_TRUE(s.index->insert(e, location_of(range, i, v)).ok());
    }
  }
  for (uint32_t range = stripe; range < kRanges; range += kStripes)
    for (uint32_t i = 0; i < kExtents; ++i) {
      MutexLock lock(s.locks[stripe]);
      if (version[range][i] == 0) continue;
      const IndexAlone alone;
      const CachePos pos = location_of(range, i, version[range][i]).pos;
      s.index->remove(extent_of(range, i), pos);
    }
  --s.writers;
}

// The one piece must be a miss, or exactly one version of this extent.
::testing::AssertionResult is_some_version(const Shared& s, uint32_t range, uint32_t i,
                                           const Piece& p) {
  const Extent e = extent_of(range, i);
  if (p.extent.len != e.len) return testing::AssertionFailure() << "in pieces";
  if (p.kind == Piece::Kind::kMiss) return testing::AssertionSuccess();
  if (p.kind != Piece::Kind::kHit || p.pos.seg.v != range * kExtents + i)
    return testing::AssertionFailure() << "another extent's: segment " << p.pos.seg.v;
  if (!(p.whole_pos == p.pos) || p.whole_len != e.len)
    return testing::AssertionFailure() << "another extent's check";
  const uint32_t low = p.pos.off / kSectorBytes;
  for (uint32_t v = low; v <= kChanges; v += 30000)
    if (p.clean && (!s.with_crc || p.crc == v * 2654435761u)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "position and crc of different versions";
}

// The same for the extent that is one page.
void read_page(const Shared& s, uint32_t range) {
  const Extent e = extent_of(range, 0);
  Index::Page page;
  Index::Snapshot snapshot;
  if (!s.index->find_page(e.off, &page, &snapshot) || !s.index->still_valid(snapshot)) return;
  Piece piece;
  piece.kind = Piece::Kind::kHit;
  piece.clean = page.slot.clean();
  piece.extent = e;
  piece.pos = piece.whole_pos = page.slot.pos();
  piece.whole_len = kPageBytes;
  piece.crc = page.check.crc();
  ASSERT_TRUE(is_some_version(s, range, 0, piece));
}

void read(Shared& s, uint32_t seed) {
  std::mt19937 random(seed);
  uint64_t confirmed = 0;
  s.all_have_begun.arrive_and_wait();
  // One more lookup when the last writer has ended: nothing can disturb that one.
  for (bool last = false; !last;) {
    last = s.writers == 0;
    const uint32_t range = random() % kRanges;
    const uint32_t i = random() % kExtents;
    ASSERT_NO_FATAL_FAILURE(read_page(s, range));
    std::array<Piece, 8> pieces;
    Index::Snapshot snapshot;
    const size_t n = s.index->lookup(extent_of(range, i), pieces, &snapshot);
    // Even a result that is not confirmed is whole, but a reused shard may show another range: its
    // pieces must not lead a reader out of an extent.
    ASSERT_EQ(n, 1u);
    const uint32_t shown = pieces[0].pos.seg.v / kExtents;
    ASSERT_TRUE(is_some_version(s, shown, i, pieces[0]));
    if (!s.index->still_valid(snapshot)) continue;
    ++confirmed;
    ASSERT_TRUE(is_some_version(s, range, i, pieces[0]));
  }
  EXPECT_GT(confirmed, 0u);
}

class Concurrent : public testing::TestWithParam<bool> {};

TEST_P(Concurrent, ConfirmedLookupsAreWhole) {
  Shared s(GetParam());
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < kStripes; ++i) threads.emplace_back(write, std::ref(s), i);
  for (uint32_t i = 0; i < kReaders; ++i) threads.emplace_back(read, std::ref(s), 100 + i);
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(s.index->mapped_bytes(), 0u);
  EXPECT_EQ(s.index->memory_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Crc, Concurrent, testing::Bool());

}  // namespace
}  // namespace pcache
