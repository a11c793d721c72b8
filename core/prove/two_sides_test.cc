// SPDX-License-Identifier: GPL-2.0-or-later
// That the random courses of two sides come to what they are for: so many of them are run by
// scripts/prove.
#include "prove/two_sides.h"

#include <gtest/gtest.h>

namespace pcache {
namespace {

TEST(TwoSidesCourse, MeetsFaultsAndWhatNeedNotBeWritten) {
  constexpr uint64_t kSeeds = 32;
  std::vector<std::unique_ptr<Base>> bases;
  bases.push_back(make_two_sides_base("fresh", false, true, true));
  bases.push_back(make_two_sides_base("old", true, false, false));
  bases.push_back(make_two_sides_base("used", true, true, true));
  Totals totals;
  TwoSides::Counts counts;
  std::map<CacheMode, uint64_t> modes;
  for (uint64_t seed = 1; seed <= kSeeds; seed++) {
    modes[options_of_course(seed).mode]++;
    try {
      run_two_sides(*bases[seed % bases.size()], seed, &totals, &counts);
    } catch (const Failure& failure) {
      FAIL() << "seed " << seed << ": " << failure.what();
    }
  }
  EXPECT_EQ(modes.size(), kCacheModes);
  EXPECT_GE(counts.met, modes[CacheMode::kWriteback] / 2);
  EXPECT_GE(counts.passed, counts.met);
  EXPECT_GT(counts.killed_fronts, 0u);
  EXPECT_GT(counts.killed_backends, 0u);
  EXPECT_GT(counts.power_losses, 0u);
  for (const char* kind : {"read EIO", "write EIO", "write ENOSPC", "write torn", "flush EIO"})
    EXPECT_GT(totals.faults[kind], 0u) << kind;
}

}  // namespace
}  // namespace pcache
