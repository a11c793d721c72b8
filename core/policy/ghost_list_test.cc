// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/ghost_list.h"

#include <gtest/gtest.h>

#include "policy/page_hash.h"

namespace pcache::policy {
namespace {

constexpr uint64_t kReach = 1000;

TEST(GhostList, KnowsAPageForItsReachOfMisses) {
  GhostList ghosts(kReach);
  EXPECT_FALSE(ghosts.missed(page_hash(1), 5)) << "never missed before";
  EXPECT_TRUE(ghosts.missed(page_hash(1), 5 + kReach));
  EXPECT_FALSE(ghosts.missed(page_hash(1), 5 + kReach + kReach + 1)) << "longer ago";
  EXPECT_TRUE(ghosts.missed(page_hash(1), 5 + kReach + kReach + 2)) << "this miss was seen, too";
}

TEST(GhostList, TheSmallestReachIsOneMiss) {
  GhostList ghosts(1);
  EXPECT_FALSE(ghosts.missed(page_hash(7), 0));
  EXPECT_TRUE(ghosts.missed(page_hash(7), 1));
  EXPECT_FALSE(ghosts.missed(page_hash(7), 3));
}

// Of a stream in which each page returns after `distance` misses, the share that was known.
double known_at(GhostList& ghosts, uint64_t distance, uint64_t misses) {
  uint64_t known = 0;
  for (uint64_t now = 0; now < misses; now++)
    known += ghosts.missed(page_hash(now % distance), now);
  return static_cast<double>(known) / static_cast<double>(misses - distance);
}

TEST(GhostList, KnowsNearlyAllPagesWithinReachAndNoOthers) {
  // Pages that are about to be forgotten are what it forgets too early.
  for (uint64_t reach : {uint64_t{100}, kReach, uint64_t{20'000}}) {
    GhostList near(reach), at_reach(reach), far(reach);
    EXPECT_GT(known_at(near, reach / 2, 5 * reach), 0.99) << reach;
    EXPECT_GT(known_at(at_reach, reach, 10 * reach), 0.85) << reach;
    EXPECT_LT(known_at(far, reach + reach / 50 + 1, 5 * reach), 0.01) << reach;
  }
}

TEST(GhostList, SeldomTakesAPageForAnotherEvenWhenItsTimeComesRound) {
  GhostList ghosts(kReach);
  uint64_t known = 0;
  for (uint64_t now = 0; now < 200'000; now++) known += ghosts.missed(page_hash(now), now);
  EXPECT_LT(known, 100u);
}

}  // namespace
}  // namespace pcache::policy
