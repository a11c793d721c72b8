// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/admission.h"

#include <gtest/gtest.h>

#include "policy/page_hash.h"

namespace pcache::policy {
namespace {

constexpr uint64_t kCapacity = 1000;

bool admits(Admission& admission, Rule rule, uint64_t page) {
  return admission.admits(rule, page, page_hash(page));
}

TEST(Admission, FifoAndSecondChanceAdmitAll) {
  Admission admission(kCapacity, false);
  for (uint64_t page = 0; page < 500; page++) {
    EXPECT_TRUE(admits(admission, Rule::kFifo, page));
    EXPECT_TRUE(admits(admission, Rule::kSecondChance, page));
  }
}

TEST(Admission, BimodalAdmitsOneMissIn64) {
  Admission admission(kCapacity, false);
  uint64_t admitted = 0;
  for (uint64_t i = 0; i < 100'000; i++) admitted += admits(admission, Rule::kBimodal, 1000 * i);
  EXPECT_NEAR(static_cast<double>(admitted), 100'000.0 / 64, 200);
}

TEST(Admission, APageThatReturnsIsAdmittedByChanceSoonerOrLater) {
  Admission admission(kCapacity, false);
  for (uint64_t page = 0; page < 10; page++) {
    bool admitted = false;
    for (uint64_t i = 0; i < 800 && !admitted; i++) {
      admitted = admits(admission, Rule::kBimodal, page);
      for (uint64_t other = 1; other < 1024; other++)
        admits(admission, Rule::kBimodal, 1'000'000 + 1000 * other);
    }
    EXPECT_TRUE(admitted) << page;
  }
}

TEST(Admission, ChanceTreatsNeighboursThatAreMissedTogetherAlike) {
  Admission admission(kCapacity, false);
  uint64_t changes = 0, admitted = 0;
  bool last = false;
  for (uint64_t page = 0; page < 100'000; page++) {
    const bool now = admits(admission, Rule::kBimodal, page);
    changes += now != last;
    admitted += now;
    last = now;
  }
  EXPECT_GT(admitted, 800u);
  EXPECT_LT(changes, admitted / 10);
}

TEST(Admission, ReuseAdmitsWhatReturnsWithinAQuarterOfTheCapacity) {
  Admission admission(kCapacity, true);
  uint64_t first = 0, soon = 0, late = 0, next = 1'000'000;
  const auto miss_others = [&](uint64_t n) {
    for (uint64_t i = 0; i < n; i++) admits(admission, Rule::kReuse, next += 1000);
  };
  for (uint64_t page = 0; page < 100'000; page += 1000) {
    first += admits(admission, Rule::kReuse, page);
    miss_others(kCapacity / 4 - 10);
    soon += admits(admission, Rule::kReuse, page);
    miss_others(kCapacity / 4 + 10);
    late += admits(admission, Rule::kReuse, page);
  }
  EXPECT_LT(first, 15u);
  EXPECT_GT(soon, 90u) << "of 100";
  EXPECT_LT(late, 15u);
}

TEST(Admission, AnotherRuleRemembersMissesForReuse) {
  Admission admission(kCapacity, true);
  uint64_t admitted = 0;
  for (uint64_t page = 0; page < 100'000; page += 1000) admits(admission, Rule::kFifo, page);
  for (uint64_t page = 0; page < 100'000; page += 1000)
    admitted += admits(admission, Rule::kReuse, page);
  EXPECT_GT(admitted, 95u);
}

}  // namespace
}  // namespace pcache::policy
