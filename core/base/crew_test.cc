// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/crew.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <new>
#include <stdexcept>

namespace pcache {
namespace {

TEST(Crew, CallsEachTaskOnce) {
  for (const unsigned helpers : {0u, 1u, 3u}) {
    Crew crew(helpers);
    EXPECT_EQ(crew.size(), helpers + 1);
    for (const size_t n : {0u, 1u, 2u, 1000u}) {
      std::vector<int> called(n);
      crew.begin(n, [&](size_t i) { called[i]++; });
      crew.finish();
      EXPECT_EQ(called, std::vector<int>(n, 1));
    }
    crew.finish();
  }
}

// Each of the two tasks returns only once the other has begun.
TEST(Crew, TasksRunBesideEachOther) {
  Crew crew(1);
  std::latch both(2);
  crew.begin(2, [&](size_t) { both.arrive_and_wait(); });
  crew.finish();
}

TEST(Crew, ItWorksWhileTheCallerDoesSomethingElse) {
  Crew crew(1);
  std::latch done(1);
  crew.begin(1, [&](size_t) { done.count_down(); });
  done.wait();
  crew.finish();
}

TEST(Crew, WhatATaskThrowsFinishThrows) {
  for (const unsigned helpers : {0u, 2u}) {
    Crew crew(helpers);
    std::atomic<int> begun{0};
    crew.begin(100, [&](size_t) {
      begun++;
      throw std::bad_alloc();
    });
    EXPECT_THROW(crew.finish(), std::bad_alloc);
    EXPECT_LE(begun, static_cast<int>(crew.size())) << "the others are not begun";
    crew.begin(1, [](size_t) {});
    EXPECT_NO_THROW(crew.finish()) << "it can go on";
  }
}

TEST(Crew, ItsEndDropsWhatHasNotBegun) {
  std::atomic<int> begun{0}, ended{0};
  {
    std::latch first(1);
    Crew crew(1);
    crew.begin(1000000, [&](size_t i) {
      begun++;
      if (i == 0) first.count_down();
      ended++;
    });
    first.wait();
  }
  EXPECT_GE(begun, 1);
  EXPECT_EQ(begun, ended);
}

}  // namespace
}  // namespace pcache
