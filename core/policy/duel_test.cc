// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/duel.h"

#include <gtest/gtest.h>

namespace pcache::policy {
namespace {

constexpr uint64_t kRefill = 400;
constexpr uint32_t kMissed0 = 1, kMissed1 = 2, kMissed2 = 4;

// After how many such accesses another leads.
template <size_t kRivals>
uint64_t until_change(Duel<kRivals>& duel, uint32_t missed) {
  for (uint64_t n = 1; n < 100 * kRefill; n++)
    if (duel.add(missed)) return n;
  return 0;
}

TEST(Duel, WhatAllMissOrHitChangesNothing) {
  Duel<2> duel(1, kRefill);
  EXPECT_EQ(until_change(duel, kMissed0 | kMissed1), 0u);
  EXPECT_EQ(until_change(duel, 0), 0u);
  EXPECT_EQ(until_change(duel, kMissed0), 0u) << "the leader is the better one";
  EXPECT_EQ(duel.leader(), 1u);
}

TEST(Duel, AChangeTakesAQuarterThenAHalfThenAWholeRefill) {
  Duel<2> duel(0, kRefill);
  EXPECT_EQ(until_change(duel, kMissed0), kRefill / 4 + 1);
  EXPECT_EQ(duel.leader(), 1u);
  EXPECT_EQ(until_change(duel, kMissed1), kRefill / 2 + 1);
  EXPECT_EQ(duel.leader(), 0u);
  EXPECT_EQ(until_change(duel, kMissed0), kRefill + 1);
  EXPECT_EQ(until_change(duel, kMissed1), kRefill + 1);
}

TEST(Duel, HowFarARivalWasBehindIsForgotten) {
  Duel<2> duel(0, kRefill);
  for (uint64_t i = 0; i < 100 * kRefill; i++) EXPECT_FALSE(duel.add(kMissed1));
  EXPECT_EQ(until_change(duel, kMissed0), kRefill / 4 + 1);
}

TEST(Duel, WhatARivalGainsAndLosesAgainInEachLapChangesNothing) {
  Duel<2> duel(0, kRefill);
  for (int lap = 0; lap < 1000; lap++) {
    for (uint64_t i = 0; i < kRefill / 4; i++) EXPECT_FALSE(duel.add(kMissed0));
    for (uint64_t i = 0; i < kRefill / 4; i++) EXPECT_FALSE(duel.add(kMissed1));
  }
}

TEST(Duel, TheBestOfSeveralLeadsAndTheOthersKeepWhatTheyAreAheadOfIt) {
  Duel<3> duel(0, kRefill);
  for (uint64_t i = 0; i < kRefill / 8; i++) duel.add(kMissed0 | kMissed2);
  EXPECT_EQ(until_change(duel, kMissed0), kRefill / 8 + 1);
  EXPECT_EQ(duel.leader(), 1u) << "it was ahead of 2 from the start";
  EXPECT_EQ(until_change(duel, kMissed1 | kMissed0), kRefill / 2 + 1);
  EXPECT_EQ(duel.leader(), 2u);
}

}  // namespace
}  // namespace pcache::policy
