// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/dirty_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "testing/image.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Sectors [first, first + n), in log order.
class Batch : public ::testing::Test {
 protected:
  void add(uint64_t first, uint64_t n) {
    batch_.add(make_key({first * kSectorBytes, n * kSectorBytes}, {}));
  }
  // "FIRST+COUNT=KEY" of each piece, in sectors.
  std::vector<std::string> pieces() const {
    std::vector<std::string> text;
    for (const DirtyBatch::Piece& piece : batch_.pieces())
      text.push_back(std::to_string(piece.extent.off / kSectorBytes) + "+" +
                     std::to_string(piece.extent.len / kSectorBytes) + "=" +
                     std::to_string(piece.key));
    return text;
  }
  DirtyBatch batch_;
};

TEST_F(Batch, Nothing) {
  EXPECT_THAT(pieces(), IsEmpty());
  EXPECT_EQ(batch_.appended_bytes(), 0u);
}

TEST_F(Batch, WithoutOverlapsInTheOrderOfTheDevice) {
  add(100, 8);
  add(20, 1);
  add(5000, 16);
  EXPECT_THAT(pieces(), ElementsAre("20+1=1", "100+8=0", "5000+16=2"));
  EXPECT_EQ(batch_.appended_bytes(), 25u * kSectorBytes);
}

TEST_F(Batch, NeighboursStayApart) {
  add(8, 8);
  add(0, 8);
  EXPECT_THAT(pieces(), ElementsAre("0+8=1", "8+8=0"));
}

TEST_F(Batch, TheSameRangeAgain) {
  add(8, 8);
  add(8, 8);
  add(8, 8);
  EXPECT_THAT(pieces(), ElementsAre("8+8=2"));
  EXPECT_EQ(batch_.appended_bytes(), 24u * kSectorBytes) << "as appended";
}

TEST_F(Batch, TheLaterCutsTheEarlier) {
  add(0, 8);
  add(4, 8);
  EXPECT_THAT(pieces(), ElementsAre("0+4=0", "4+8=1"));
}

TEST_F(Batch, TheEarlierShowsBehindTheLater) {
  add(4, 8);
  add(0, 8);
  EXPECT_THAT(pieces(), ElementsAre("0+8=1", "8+4=0"));
}

TEST_F(Batch, ASmallOneInsideALargeOne) {
  add(0, 16);
  add(6, 2);
  EXPECT_THAT(pieces(), ElementsAre("0+6=0", "6+2=1", "8+8=0"));
}

TEST_F(Batch, ALargeOneOverSmallOnes) {
  add(2, 1);
  add(6, 2);
  add(0, 16);
  EXPECT_THAT(pieces(), ElementsAre("0+16=2"));
}

// 0 and 2 do not touch each other, but both touch 1.
TEST_F(Batch, AChain) {
  add(0, 8);
  add(6, 8);
  add(12, 8);
  add(18, 2);
  EXPECT_THAT(pieces(), ElementsAre("0+6=0", "6+6=1", "12+6=2", "18+2=3"));
}

TEST_F(Batch, AChainBackwards) {
  add(18, 2);
  add(12, 8);
  add(6, 8);
  add(0, 8);
  EXPECT_THAT(pieces(), ElementsAre("0+8=3", "8+6=2", "14+6=1"));
}

// The last of the log inside the first: the one between them in the order of starts must not end
// the search for what overlaps.
TEST_F(Batch, ALongOneReachesPastShortOnes) {
  add(0, 32);
  add(2, 2);
  add(20, 4);
  EXPECT_THAT(pieces(), ElementsAre("0+2=0", "2+2=1", "4+16=0", "20+4=2", "24+8=0"));
}

TEST_F(Batch, ToTheEdgesOfARange) {
  constexpr uint64_t kRange = kRangeBytes / kSectorBytes;
  add(kRange, kRange);
  add(kRange - 8, 8);
  add(2 * kRange - 1, 1);
  EXPECT_THAT(pieces(), ElementsAre("8184+8=1", "8192+8191=0", "16383+1=2"));
}

TEST_F(Batch, ClearForgetsAll) {
  add(0, 8);
  batch_.clear();
  EXPECT_THAT(pieces(), IsEmpty());
  EXPECT_EQ(batch_.appended_bytes(), 0u);
  add(4, 1);
  EXPECT_THAT(pieces(), ElementsAre("4+1=0"));
}

TEST_F(Batch, RandomKeysAgainstAModelOfSectors) {
  std::mt19937_64 random(4711);
  for (int round = 0; round < 300; round++) {
    batch_.clear();
    std::map<uint64_t, uint32_t> newest;  // sector -> key
    const uint32_t n = 1 + random() % 40;
    const uint64_t spread = 1 + random() % 300;
    for (uint32_t k = 0; k < n; k++) {
      const uint64_t first = random() % spread, len = 1 + random() % 24;
      add(first, len);
      for (uint64_t s = first; s < first + len; s++) newest[s] = k;
    }
    std::map<uint64_t, uint32_t> found;
    uint64_t end = 0;
    for (const DirtyBatch::Piece& piece : batch_.pieces()) {
      ASSERT_GE(piece.extent.off, end) << "ascending without overlaps, round " << round;
      ASSERT_GT(piece.extent.len, 0u);
      end = piece.extent.end();
      for (uint64_t at = piece.extent.off; at < end; at += kSectorBytes)
        found[at / kSectorBytes] = piece.key;
    }
    ASSERT_EQ(found, newest) << "round " << round;
  }
}

}  // namespace
}  // namespace pcache
