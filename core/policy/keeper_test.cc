// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/keeper.h"

#include <gtest/gtest.h>

#include <utility>

namespace pcache::policy {
namespace {

constexpr uint64_t kCapacity = 1000;

TEST(Keeper, OnlyWhatWasHitStaysAndNothingInAFifo) {
  Keeper keeper(kCapacity);
  for (Rule rule : {Rule::kSecondChance, Rule::kBimodal, Rule::kReuse}) {
    EXPECT_FALSE(keeper.stays(rule, false));
    EXPECT_TRUE(keeper.stays(rule, true));
  }
  EXPECT_FALSE(keeper.stays(Rule::kFifo, true));
}

TEST(Keeper, NotTooManyStayInARow) {
  for (const auto& [capacity, in_a_row] : {std::pair{100, 8}, {320, 10}, {100'000, 3125}}) {
    Keeper keeper(capacity);
    for (int turn = 0; turn < 3; turn++) {
      for (int i = 0; i < in_a_row; i++) ASSERT_TRUE(keeper.stays(Rule::kSecondChance, true)) << i;
      EXPECT_FALSE(keeper.stays(Rule::kSecondChance, true));
    }
  }
}

TEST(Keeper, AnExtentThatIsLargerThanThatMayStayAlone) {
  Keeper keeper(kCapacity);
  EXPECT_TRUE(keeper.stays(Rule::kSecondChance, true, kCapacity / 2));
  EXPECT_FALSE(keeper.stays(Rule::kSecondChance, true, 1));
}

TEST(Keeper, NoMoreStaysThanTwiceWhatIsGivenUpAndOneCapacity) {
  for (uint64_t pages : {1, 7}) {
    Keeper keeper(kCapacity);
    uint64_t stayed = 0, given_up = 0;
    for (int i = 0; i < 20'000; i++) {
      (keeper.stays(Rule::kSecondChance, true, pages) ? stayed : given_up) += pages;
      ASSERT_LE(stayed, 2 * given_up + kCapacity);
    }
    EXPECT_GE(stayed, 2 * given_up) << "and that is made use of";
  }
}

TEST(Keeper, InAHurryNoMoreThanTwoThirdsStay) {
  Keeper keeper(kCapacity);
  uint64_t stayed = 0, given_up = 0;
  for (int i = 0; i < 20'000; i++) {
    (keeper.stays(Rule::kSecondChance, true, 1, true) ? stayed : given_up)++;
    ASSERT_LE(stayed, 2 * given_up + kCapacity / 32);
  }
  EXPECT_GE(stayed, 2 * given_up);
}

TEST(Keeper, WhatIsNotHitLetsLaterPagesStay) {
  Keeper keeper(kCapacity);
  for (int i = 0; i < 20'000; i++) keeper.stays(Rule::kSecondChance, true);
  for (int i = 0; i < 20; i++) EXPECT_FALSE(keeper.stays(Rule::kSecondChance, false));
  for (int i = 0; i < 8; i++) EXPECT_TRUE(keeper.stays(Rule::kSecondChance, true));
}

}  // namespace
}  // namespace pcache::policy
