// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/cleaning_costs.h"

#include <gtest/gtest.h>

namespace pcache {
namespace {

constexpr uint64_t kMiB = 1 << 20, kMs = 1'000'000;

TEST(CleaningCosts, BeforeAnythingIsKnownLittleLiveDataIsMoved) {
  CleaningCosts costs;
  EXPECT_TRUE(costs.moving_pays(0, 0));
  EXPECT_TRUE(costs.moving_pays(1, 4));
  EXPECT_TRUE(costs.moving_pays(3, 4));
  EXPECT_FALSE(costs.moving_pays(4, 5));
  EXPECT_FALSE(costs.moving_pays(1, 1));
}

TEST(CleaningCosts, ADeviceAsFastAsACopyIsWrittenTo) {
  CleaningCosts costs;
  costs.wrote(kMiB, kMs);
  costs.moved(kMiB, kMs);
  EXPECT_TRUE(costs.moving_pays(4, 10));
  EXPECT_FALSE(costs.moving_pays(6, 10));
  for (int i = 0; i < 1000; i++) costs.wrote(kMiB, 10 * kMs);
  EXPECT_TRUE(costs.moving_pays(6, 10)) << "it has become slower";
  EXPECT_FALSE(costs.moving_pays(8, 10));
}

}  // namespace
}  // namespace pcache
