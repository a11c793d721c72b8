// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/sampled_duel.h"

#include <gtest/gtest.h>

#include "policy/page_hash.h"

namespace pcache::policy {
namespace {

void read(SampledDuel& duel, uint64_t page) { duel.access(page, page_hash(page), false, true); }

TEST(SampledDuel, TheSampleLeavesEachShadowLogAtLeast512Pages) {
  for (uint64_t capacity : {uint64_t{1}, uint64_t{1023}, uint64_t{1024}, uint64_t{1} << 20}) {
    SampledDuel duel(capacity);
    uint64_t sampled = 0;
    for (uint64_t page = 0; page < 400'000; page++) sampled += duel.is_sampled(page);
    const double one_in = capacity < 1024 ? 1 : static_cast<double>(capacity) / 512;
    EXPECT_NEAR(static_cast<double>(sampled), 400'000 / one_in, 60 + 2000 / one_in) << capacity;
  }
}

TEST(SampledDuel, WhatOnlySomeRulesHaveIsCountedAtEachAccess) {
  constexpr uint64_t kCapacity = 400;
  SampledDuel duel(kCapacity);
  EXPECT_EQ(duel.leader(), Rule::kReuse);
  for (uint64_t page = 0; page < kCapacity; page++) read(duel, page);
  // Each page twice in a row: what admits all hits the second time.
  for (uint64_t page = 1'000'000; page < 1'000'000 + kCapacity; page++) {
    read(duel, page);
    read(duel, page);
  }
  EXPECT_TRUE(duel.leader() == Rule::kFifo || duel.leader() == Rule::kSecondChance);
  EXPECT_EQ(duel.changes(), 1u);
}

TEST(SampledDuel, WhatAllRulesHaveChangesNothing) {
  SampledDuel duel(400);
  for (int i = 0; i < 100'000; i++) read(duel, i % 100);
  EXPECT_EQ(duel.leader(), Rule::kReuse);
  EXPECT_EQ(duel.changes(), 0u);
}

}  // namespace
}  // namespace pcache::policy
