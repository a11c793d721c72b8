// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/sequential_misses.h"

#include <gtest/gtest.h>

namespace pcache::policy {
namespace {

constexpr uint64_t kSkip = SequentialMisses::kSkippedBytes;

TEST(SequentialMisses, ARunGrows) {
  SequentialMisses misses;
  EXPECT_EQ(misses.run_bytes({1 << 20, 4096}), 4096u);
  EXPECT_EQ(misses.run_bytes({(1 << 20) + 4096, 8192}), 12288u);
  EXPECT_EQ(misses.run_bytes({(1 << 20) + 12288, 512}), 12800u);
}

TEST(SequentialMisses, WhatIsCachedInBetweenIsSkipped) {
  SequentialMisses misses;
  EXPECT_EQ(misses.run_bytes({0, 4096}), 4096u);
  EXPECT_EQ(misses.run_bytes({4096 + kSkip, 4096}), 8192u) << "skipped bytes do not count";
  EXPECT_EQ(misses.run_bytes({8192 + kSkip + kSkip + 512, 4096}), 4096u) << "too far";
}

TEST(SequentialMisses, BackwardsOrAgainIsNoRun) {
  SequentialMisses misses;
  EXPECT_EQ(misses.run_bytes({8192, 4096}), 4096u);
  EXPECT_EQ(misses.run_bytes({8192, 4096}), 4096u);
  EXPECT_EQ(misses.run_bytes({4096, 4096}), 4096u);
}

TEST(SequentialMisses, RunsDoNotDisturbEachOther) {
  SequentialMisses misses;
  constexpr uint64_t kFar = 1 << 30;
  for (uint64_t round = 1; round <= 5; round++)
    for (uint64_t run = 0; run < SequentialMisses::kRuns; run++)
      EXPECT_EQ(misses.run_bytes({run * kFar + round * 4096, 4096}), round * 4096);
}

TEST(SequentialMisses, TheOneThatStoodLongestIsForgotten) {
  SequentialMisses misses;
  constexpr uint64_t kFar = 1 << 30;
  for (uint64_t run = 0; run < SequentialMisses::kRuns; run++)
    (void)misses.run_bytes({run * kFar, 4096});
  (void)misses.run_bytes({4096, 4096});         // the first goes on
  (void)misses.run_bytes({1000 * kFar, 4096});  // in place of the second
  EXPECT_EQ(misses.run_bytes({8192, 4096}), 3 * 4096u);
  EXPECT_EQ(misses.run_bytes({kFar + 4096, 4096}), 4096u);
}

}  // namespace
}  // namespace pcache::policy
