// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/keeper.h"

#include <gtest/gtest.h>

#include "policy/page_hash.h"

namespace pcache::policy {
namespace {

constexpr uint64_t kCapacity = 1000;

bool admits(Keeper& keeper, Rule rule, uint64_t page) {
  return keeper.admits(rule, page, page_hash(page));
}

TEST(Keeper, FifoAndSecondChanceAdmitAll) {
  Keeper keeper(kCapacity, false);
  for (uint64_t page = 0; page < 500; page++) {
    EXPECT_TRUE(admits(keeper, Rule::kFifo, page));
    EXPECT_TRUE(admits(keeper, Rule::kSecondChance, page));
  }
}

TEST(Keeper, BimodalAdmitsOneMissIn64) {
  Keeper keeper(kCapacity, false);
  uint64_t admitted = 0;
  for (uint64_t i = 0; i < 100'000; i++) admitted += admits(keeper, Rule::kBimodal, 1000 * i);
  EXPECT_NEAR(static_cast<double>(admitted), 100'000.0 / 64, 200);
}

TEST(Keeper, APageThatReturnsIsAdmittedByChanceSoonerOrLater) {
  Keeper keeper(kCapacity, false);
  for (uint64_t page = 0; page < 10; page++) {
    bool admitted = false;
    for (uint64_t i = 0; i < 800 && !admitted; i++) {
      admitted = admits(keeper, Rule::kBimodal, page);
      for (uint64_t other = 1; other < 1024; other++)
        admits(keeper, Rule::kBimodal, 1'000'000 + 1000 * other);
    }
    EXPECT_TRUE(admitted) << page;
  }
}

TEST(Keeper, ChanceTreatsNeighboursThatAreMissedTogetherAlike) {
  Keeper keeper(kCapacity, false);
  uint64_t changes = 0, admitted = 0;
  bool last = false;
  for (uint64_t page = 0; page < 100'000; page++) {
    const bool now = admits(keeper, Rule::kBimodal, page);
    changes += now != last;
    admitted += now;
    last = now;
  }
  EXPECT_GT(admitted, 800u);
  EXPECT_LT(changes, admitted / 10);
}

TEST(Keeper, ReuseAdmitsWhatReturnsWithinAQuarterOfTheCapacity) {
  Keeper keeper(kCapacity, true);
  uint64_t first = 0, soon = 0, late = 0, next = 1'000'000;
  const auto miss_others = [&](uint64_t n) {
    for (uint64_t i = 0; i < n; i++) admits(keeper, Rule::kReuse, next += 1000);
  };
  for (uint64_t page = 0; page < 100'000; page += 1000) {
    first += admits(keeper, Rule::kReuse, page);
    miss_others(kCapacity / 4 - 10);
    soon += admits(keeper, Rule::kReuse, page);
    miss_others(kCapacity / 4 + 10);
    late += admits(keeper, Rule::kReuse, page);
  }
  EXPECT_LT(first, 15u);
  EXPECT_GT(soon, 90u) << "of 100";
  EXPECT_LT(late, 15u);
}

TEST(Keeper, AnotherRuleRemembersMissesForReuse) {
  Keeper keeper(kCapacity, true);
  uint64_t admitted = 0;
  for (uint64_t page = 0; page < 100'000; page += 1000) admits(keeper, Rule::kFifo, page);
  for (uint64_t page = 0; page < 100'000; page += 1000)
    admitted += admits(keeper, Rule::kReuse, page);
  EXPECT_GT(admitted, 95u);
}

TEST(Keeper, OnlyWhatWasHitStaysAndNothingInAFifo) {
  Keeper keeper(kCapacity, true);
  for (Rule rule : {Rule::kSecondChance, Rule::kBimodal, Rule::kReuse}) {
    EXPECT_FALSE(keeper.stays(rule, false));
    EXPECT_TRUE(keeper.stays(rule, true));
  }
  EXPECT_FALSE(keeper.stays(Rule::kFifo, true));
}

TEST(Keeper, NotTooManyStayInARow) {
  for (const auto& [capacity, in_a_row] : {std::pair{100, 8}, {320, 10}, {100'000, 3125}}) {
    Keeper keeper(capacity, false);
    for (int turn = 0; turn < 3; turn++) {
      for (int i = 0; i < in_a_row; i++) ASSERT_TRUE(keeper.stays(Rule::kSecondChance, true)) << i;
      EXPECT_FALSE(keeper.stays(Rule::kSecondChance, true));
    }
  }
}

TEST(Keeper, AnExtentThatIsLargerThanThatMayStayAlone) {
  Keeper keeper(kCapacity, false);
  EXPECT_TRUE(keeper.stays(Rule::kSecondChance, true, kCapacity / 2));
  EXPECT_FALSE(keeper.stays(Rule::kSecondChance, true, 1));
}

TEST(Keeper, NoMoreStaysThanTwiceWhatIsGivenUpAndOneCapacity) {
  for (uint64_t pages : {1, 7}) {
    Keeper keeper(kCapacity, false);
    uint64_t stayed = 0, given_up = 0;
    for (int i = 0; i < 20'000; i++) {
      (keeper.stays(Rule::kSecondChance, true, pages) ? stayed : given_up) += pages;
      ASSERT_LE(stayed, 2 * given_up + kCapacity);
    }
    EXPECT_GE(stayed, 2 * given_up) << "and that is made use of";
  }
}

TEST(Keeper, InAHurryNoMoreThanTwoThirdsStay) {
  Keeper keeper(kCapacity, false);
  uint64_t stayed = 0, given_up = 0;
  for (int i = 0; i < 20'000; i++) {
    (keeper.stays(Rule::kSecondChance, true, 1, true) ? stayed : given_up)++;
    ASSERT_LE(stayed, 2 * given_up + kCapacity / 32);
  }
  EXPECT_GE(stayed, 2 * given_up);
}

TEST(Keeper, WhatIsNotHitLetsLaterPagesStay) {
  Keeper keeper(kCapacity, false);
  for (int i = 0; i < 20'000; i++) keeper.stays(Rule::kSecondChance, true);
  for (int i = 0; i < 20; i++) EXPECT_FALSE(keeper.stays(Rule::kSecondChance, false));
  for (int i = 0; i < 8; i++) EXPECT_TRUE(keeper.stays(Rule::kSecondChance, true));
}

}  // namespace
}  // namespace pcache::policy
