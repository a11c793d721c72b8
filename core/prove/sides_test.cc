// SPDX-License-Identifier: GPL-2.0-or-later
// A side that is killed between a store and its fence, and what its successor, or the other side,
// makes of it: at every event of what it does. two_sides.h shows the same by chance, and more.
#include <gtest/gtest.h>

#include "prove/two_sides.h"

namespace pcache {
namespace {

using Side = TwoSides::Side;

constexpr unsigned kMostEvents = 16, kMostFreeing = 8;
constexpr Extent kFirst{0, 4096}, kSecond{kRangeBytes, 4096};

class Sides : public ::testing::TestWithParam<const char*> {
 protected:
  // Kills `side` at each of its events in turn, then `after`; and every crash of that.
  void at_each_event(Side side, const std::function<void(TwoSides&)>& before,
                     const std::function<void(TwoSides&)>& what,
                     const std::function<void(TwoSides&)>& after,
                     unsigned most_events = kMostEvents) {
    const auto base = make_two_sides_base(GetParam(), false, true, true);
    Totals totals;
    for (unsigned n = 1; n <= most_events; n++) {
      TwoSides sides(*base, n, &totals);
      sides.set_interleaving(0);
      try {
        before(sides);
        sides.kill(side, n, [&] { what(sides); });
        after(sides);
        sides.examine(SIZE_MAX);
      } catch (const Failure& failure) {
        ADD_FAILURE() << "killed at event " << n << ": " << failure.what();
        return;
      }
    }
    EXPECT_GT(totals.images, 100u);
  }
  static void write(TwoSides& sides, const Extent& extent) {
    EXPECT_EQ(sides.front().write(extent, PCACHE_REQ_FUA), 0);
  }
  static void start_both(TwoSides& sides) {
    sides.start(Side::kFront);
    sides.start(Side::kBackend);
  }
};

// What its successor finds in the log, and goes on behind, may be in a CPU's cache alone.
TEST_P(Sides, AFrontThatIsKilledLeavesItsLogToTheNext) {
  at_each_event(
      Side::kFront, [](TwoSides& sides) { sides.start(Side::kFront); },
      [](TwoSides& sides) { (void)sides.front().write(kFirst, PCACHE_REQ_FUA); },
      [](TwoSides& sides) {
        sides.start(Side::kFront);
        write(sides, kSecond);
      });
}

TEST_P(Sides, AFrontThatIsKilledWhileItRecoversLeavesItToTheNext) {
  at_each_event(
      Side::kFront,
      [](TwoSides& sides) {
        sides.start(Side::kFront);
        write(sides, kFirst);
        sides.kill(Side::kFront, 1, [] {});
      },
      [](TwoSides& sides) { sides.start(Side::kFront); },
      [](TwoSides& sides) {
        sides.start(Side::kFront);
        write(sides, kSecond);
      });
}

// The backend goes by a kset that nobody has fenced.
TEST_P(Sides, WhatAFrontHasNotFencedTheBackendPersists) {
  at_each_event(
      Side::kFront, start_both,
      [](TwoSides& sides) { (void)sides.front().write(kFirst, PCACHE_REQ_FUA); },
      [](TwoSides& sides) { sides.backend_steps(10); });
}

// The next one stores over the other replica of dirty_tail.
TEST_P(Sides, ABackendThatIsKilledLeavesItsTailToTheNext) {
  at_each_event(
      Side::kBackend,
      [](TwoSides& sides) {
        start_both(sides);
        for (int i = 0; i < 2; i++) {
          write(sides, kFirst);
          sides.backend_steps(10);
          sides.front().advance(6000);  // key_tail follows
        }
        write(sides, kSecond);
      },
      [](TwoSides& sides) { sides.backend_steps(1); },
      [](TwoSides& sides) {
        write(sides, kFirst);
        sides.start(Side::kBackend);
        sides.backend_steps(10);
      });
}

// The front reclaims by a dirty_tail that nobody has fenced.
TEST_P(Sides, WhatABackendHasNotFencedTheFrontPersists) {
  at_each_event(
      Side::kBackend,
      [](TwoSides& sides) {
        start_both(sides);
        write(sides, kFirst);
      },
      [](TwoSides& sides) { sides.backend_steps(1); },
      [](TwoSides& sides) {
        for (int i = 0; i < 3; i++) sides.front().advance(6000);
        write(sides, kSecond);
      });
}

// A front's log reclaims by the tails that it finds.
TEST_P(Sides, AFrontThatIsKilledWhileItReclaimsLeavesItToTheNext) {
  at_each_event(
      Side::kFront,
      [](TwoSides& sides) {
        start_both(sides);
        for (int i = 0; i < 3; i++) {
          write(sides, kFirst);
          sides.backend_steps(10);
        }
      },
      [](TwoSides& sides) { sides.front().advance(6000); },
      [](TwoSides& sides) {
        sides.start(Side::kFront);
        write(sides, kSecond);
        sides.backend_steps(10);
        sides.front().advance(6000);
      });
}

class FullSides : public Sides {};

// The next one's keys would be of a generation whose record a crash takes back.
TEST_P(FullSides, AFrontThatIsKilledWhileItFreesLeavesTheGenerationsToTheNext) {
  at_each_event(
      Side::kFront,
      [](TwoSides& sides) {
        start_both(sides);
        sides.backend_steps(100);
      },
      [](TwoSides& sides) { sides.front().advance(6000); },
      [](TwoSides& sides) {
        sides.start(Side::kFront);
        write(sides, kSecond);
      },
      kMostFreeing);
}

INSTANTIATE_TEST_SUITE_P(All, FullSides, ::testing::Values("full"),
                         [](const auto& info) { return std::string(info.param); });

INSTANTIATE_TEST_SUITE_P(All, Sides, ::testing::Values("fresh", "roll"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace pcache
