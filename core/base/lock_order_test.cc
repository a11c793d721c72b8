// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/lock_order.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/biased_mutex.h"
#include "base/mutex.h"

namespace pcache {
namespace {

#ifndef NDEBUG  // a release build checks no order

// Locks `first`, then `second`.
template <typename First, typename Second>
void nest(First& first, Second& second) NO_THREAD_SAFETY_ANALYSIS {
  first.lock();
  second.lock();
  second.unlock();
  first.unlock();
}

TEST(LockOrder, FromTheOutermostToTheInnermost) {
  Mutex batch(LockRank::kWriteback), segments(LockRank::kSegments), leaf;
  BiasedMutex stripe(LockRank::kPath), log_queue(LockRank::kLogQueue);
  nest(batch, stripe);
  nest(stripe, log_queue);
  nest(log_queue, segments);
  nest(stripe, segments);
  nest(segments, leaf);
}

using LockOrderDeathTest = ::testing::Test;

TEST(LockOrderDeathTest, TheOtherWayRoundEndsTheProcess) {
  Mutex segments(LockRank::kSegments), leaf;
  BiasedMutex stripe(LockRank::kPath);
  EXPECT_DEATH(nest(segments, stripe), "rank");
  EXPECT_DEATH(nest(leaf, segments), "rank");
}

TEST(LockOrderDeathTest, TwoOfOneRankEndTheProcess) {
  BiasedMutex one(LockRank::kPath), two(LockRank::kPath);
  Mutex leaf, other;
  EXPECT_DEATH(nest(one, two), "rank");
  EXPECT_DEATH(nest(leaf, other), "rank");
}

// Without the check the thread would wait for itself, for ever.
TEST(LockOrderDeathTest, TheSameTwiceEndsTheProcess) {
  Mutex mutex;
  BiasedMutex unbiased(LockRank::kPath), biased(LockRank::kPath);
  for (uint32_t i = 0; i < 2 * BiasedMutex::kFirstStreak; i++) {
    BiasedLock lock(biased);
  }
  EXPECT_DEATH(nest(mutex, mutex), "rank");
  EXPECT_DEATH(nest(unbiased, unbiased), "rank");
  EXPECT_DEATH(nest(biased, biased), "rank");
}

TEST(LockOrderDeathTest, AlsoWhereTheMutexIsBiasedToThisThread) {
  BiasedMutex one(LockRank::kPath), two(LockRank::kPath);
  for (uint32_t i = 0; i < 2 * BiasedMutex::kFirstStreak; i++) {
    BiasedLock lock(one);
  }
  for (uint32_t i = 0; i < 2 * BiasedMutex::kFirstStreak; i++) {
    BorrowedLock lock(two);
  }
  EXPECT_DEATH(
      {
        BiasedLock first(one);
        BorrowedLock second(two);
      },
      "rank");
}

TEST(LockOrder, WhatIsDroppedFirstIsForgottenFirst) {
  Mutex outer(LockRank::kWriteback), inner(LockRank::kSegments), next(LockRank::kQueues);
  [&]() NO_THREAD_SAFETY_ANALYSIS {
    outer.lock();
    inner.lock();
    outer.unlock();
    inner.unlock();
    outer.lock();
    next.lock();
    next.unlock();
    outer.unlock();
  }();
}

// try_lock() waits for nobody, so it cannot be part of a deadlock.
TEST(LockOrder, TryingIsFreeInItsOrder) {
  Mutex segments(LockRank::kSegments), batch(LockRank::kWriteback);
  [&]() NO_THREAD_SAFETY_ANALYSIS {
    segments.lock();
    EXPECT_TRUE(batch.try_lock());
    batch.unlock();
    segments.unlock();
  }();
}

TEST(LockOrder, IsEachThreadsOwn) {
  Mutex segments(LockRank::kSegments), batch(LockRank::kWriteback);
  MutexLock held(segments);
  std::thread([&] { MutexLock lock(batch); }).join();
}

#endif

}  // namespace
}  // namespace pcache
