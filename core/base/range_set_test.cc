// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/range_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(RangeSet, NeighboursAndOverlapsAreOne) {
  RangeSet set;
  set.add({10, 10});
  set.add({30, 10});
  EXPECT_EQ(set.size(), 2u);
  set.add({20, 10});
  EXPECT_THAT(set.ranges(), ElementsAre(Pair(10, 40)));
  set.add({0, 0});
  set.add({5, 100});
  EXPECT_THAT(set.ranges(), ElementsAre(Pair(5, 105)));
  EXPECT_EQ(set.bytes(), 100u);
}

TEST(RangeSet, WhatIsRemovedCutsRanges) {
  RangeSet set;
  set.add({0, 100});
  set.remove({40, 20});
  set.remove({90, 50});
  set.remove({200, 5});
  EXPECT_THAT(set.ranges(), ElementsAre(Pair(0, 40), Pair(60, 90)));
  set.remove({0, 200});
  EXPECT_TRUE(set.empty());
}

TEST(RangeSet, IsWhatASetOfBytesWouldBe) {
  std::mt19937 random(7);
  RangeSet set;
  std::vector<bool> bytes(300);
  for (int i = 0; i < 3000; i++) {
    const Extent extent{random() % 250, random() % 40};
    const bool add = random() % 2;
    add ? set.add(extent) : set.remove(extent);
    for (uint64_t at = extent.off; at < extent.end(); at++) bytes[at] = add;
    std::vector<bool> got(300);
    uint64_t last_end = 0;
    for (const auto& [first, end] : set.ranges()) {
      ASSERT_TRUE(first < end && (last_end == 0 || first > last_end)) << "ranges that touch";
      last_end = end;
      for (uint64_t at = first; at < end; at++) got[at] = true;
    }
    ASSERT_EQ(got, bytes);
  }
}

}  // namespace
}  // namespace pcache
