// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/pace.h"

#include <gtest/gtest.h>

namespace pcache {
namespace {

TEST(Pace, OffEverythingPasses) {
  Pace pace;
  for (int i = 0; i < 100; i++) EXPECT_TRUE(pace.take(1 << 20));
  pace.set(true);
  EXPECT_FALSE(pace.take(512)) << "what was granted or taken before does not count";
}

TEST(Pace, OnItTakesCredit) {
  Pace pace;
  pace.set(true);
  pace.grant(8192);
  EXPECT_TRUE(pace.take(4096));
  EXPECT_TRUE(pace.take(4096));
  EXPECT_FALSE(pace.take(4096));
  pace.grant(1);
  EXPECT_TRUE(pace.take(1 << 20)) << "a large write passes on any credit";
  pace.grant(1 << 19);
  EXPECT_FALSE(pace.take(512)) << "and leaves a debt";
  pace.grant(1 << 19);
  EXPECT_TRUE(pace.take(512));
}

TEST(Pace, CreditThatIsNotUsedDoesNotPileUp) {
  Pace pace;
  pace.set(true);
  for (int i = 0; i < 100; i++) pace.grant(1 << 20);
  EXPECT_TRUE(pace.take(1 << 20));
  EXPECT_FALSE(pace.take(512));
}

TEST(Pace, TurningItOnOrOffStartsAnew) {
  Pace pace;
  pace.set(true);
  pace.grant(4096);
  pace.set(true);
  EXPECT_TRUE(pace.take(512)) << "it was on already";
  pace.set(false);
  pace.grant(4096);
  pace.set(true);
  EXPECT_FALSE(pace.take(512));
}

}  // namespace
}  // namespace pcache
