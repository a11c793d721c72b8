// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/biased_mutex.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "base/process_barrier.h"

namespace pcache {
namespace {

// Without a process barrier a BiasedMutex is a Mutex, and these tests have nothing to test.
#define NEEDS_BARRIER() \
  if (!process_barrier_available()) GTEST_SKIP() << "membarrier(2) is not permitted here"

class BiasedMutexTest : public ::testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override { BiasedMutex::set_first_streak(GetParam()); }
  void TearDown() override { BiasedMutex::set_first_streak(BiasedMutex::kFirstStreak); }
};

TEST_P(BiasedMutexTest, CountsUnderContention) {
  BiasedMutex mu;
  uint64_t counter = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&] {
      for (int i = 0; i < 20000; i++) {
        BiasedLock lock(mu);
        counter++;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(counter, 80000u);
}

// One thread takes it all the time, others now and then, and two borrow it: it becomes biased and
// is revoked while they run.
TEST_P(BiasedMutexTest, CountsBesideOccasionalOthers) {
  BiasedMutex mu;
  uint64_t counter = 0;
  std::atomic<bool> stop{false};
  uint64_t mine = 0;
  std::thread often([&] {
    for (; !stop; mine++) {
      BiasedLock lock(mu);
      counter++;
    }
  });
  std::vector<std::thread> seldom;
  for (int t = 0; t < 3; t++)
    seldom.emplace_back([&] {
      for (int i = 0; i < 500; i++) {
        BiasedLock lock(mu);
        counter++;
        if (i % 16 == 0) std::this_thread::yield();
      }
    });
  for (int t = 0; t < 2; t++)
    seldom.emplace_back([&] {
      for (int i = 0; i < 2000; i++) {
        BorrowedLock lock(mu);
        counter++;
        if (i % 16 == 0) std::this_thread::yield();
      }
    });
  for (auto& t : seldom) t.join();
  stop = true;
  often.join();
  EXPECT_EQ(counter, mine + 3 * 500 + 2 * 2000);
}

// A reader without the mutex sees what the biased thread stored, once it has called settle().
TEST_P(BiasedMutexTest, SettledReadersSeeWhatWasStoredBefore) {
  BiasedMutex mu;
  std::atomic<uint64_t> published{0};
  std::vector<std::atomic<uint64_t>> data(1 << 16);
  std::thread writer([&] {
    for (uint64_t i = 0; i < data.size(); i++) {
      data[i].store(i + 1, std::memory_order_relaxed);
      BiasedLock lock(mu);
      published.store(i + 1, std::memory_order_release);
    }
  });
  for (uint64_t seen = 0; seen < data.size();) {
    seen = published.load(std::memory_order_acquire);
    mu.settle();
    if (seen == 0) continue;
    ASSERT_EQ(data[seen - 1].load(std::memory_order_relaxed), seen);
    if (seen % 8 == 0) BorrowedLock lock(mu);
  }
  writer.join();
}

INSTANTIATE_TEST_SUITE_P(Streaks, BiasedMutexTest, ::testing::Values(0u, 1u, 32u));

void take(BiasedMutex& mu, unsigned times) {
  for (unsigned i = 0; i < times; i++) BiasedLock lock(mu);
}

TEST(BiasedMutex, IsBiasedToTheThreadThatTakesItOften) {
  NEEDS_BARRIER();
  BiasedMutex mu;
  take(mu, BiasedMutex::kFirstStreak);
  EXPECT_FALSE(mu.biased_to_this_thread());
  take(mu, 1);
  EXPECT_TRUE(mu.biased_to_this_thread());
  std::thread([&] {
    EXPECT_FALSE(mu.biased_to_this_thread());
    take(mu, 1);
  }).join();
  EXPECT_FALSE(mu.biased_to_this_thread()) << "another thread has taken it";
  take(mu, 2 * BiasedMutex::kFirstStreak);
  EXPECT_FALSE(mu.biased_to_this_thread()) << "once bitten";
  take(mu, 1);
  EXPECT_TRUE(mu.biased_to_this_thread());
}

TEST(BiasedMutex, IsNotBiasedWhileTwoTakeTurns) {
  BiasedMutex mu;
  for (int i = 0; i < 1000; i++) {
    take(mu, BiasedMutex::kFirstStreak / 2);
    std::thread([&] { take(mu, 1); }).join();
    ASSERT_FALSE(mu.biased_to_this_thread());
  }
}

TEST(BiasedMutex, ReadersThatSettleEndTheBias) {
  NEEDS_BARRIER();
  BiasedMutex mu;
  take(mu, BiasedMutex::kFirstStreak + 1);
  mu.settle();
  EXPECT_TRUE(mu.biased_to_this_thread()) << "its own thread needs nothing settled";
  std::thread([&] { mu.settle(); }).join();
  EXPECT_FALSE(mu.biased_to_this_thread());
}

template <typename Lock>
void expect_to_wait_for_who_is_inside() {
  BiasedMutex mu;
  take(mu, BiasedMutex::kFirstStreak + 1);
  std::atomic<bool> other_is_in{false};
  std::thread other;
  {
    BiasedLock lock(mu);
    other = std::thread([&] {
      Lock lock(mu);
      other_is_in = true;
    });
    for (int i = 0; i < 1000; i++) std::this_thread::yield();
    EXPECT_FALSE(other_is_in);
  }
  other.join();
  EXPECT_TRUE(other_is_in);
}

TEST(BiasedMutex, WhoTakesTheBiasWaitsForWhoIsInside) {
  NEEDS_BARRIER();
  expect_to_wait_for_who_is_inside<BiasedLock>();
  expect_to_wait_for_who_is_inside<BorrowedLock>();
}

TEST(BiasedMutex, WhatWasBorrowedIsGivenBack) {
  NEEDS_BARRIER();
  BiasedMutex mu;
  take(mu, BiasedMutex::kFirstStreak + 1);
  for (int i = 0; i < 3; i++) {
    std::thread([&] {
      BorrowedLock lock(mu);
      EXPECT_FALSE(mu.is_biased());
    }).join();
    EXPECT_TRUE(mu.biased_to_this_thread());
  }
  std::thread([&] { take(mu, 1); }).join();
  take(mu, 2 * BiasedMutex::kFirstStreak);
  EXPECT_FALSE(mu.is_biased()) << "borrowing has not counted as taking it away";
  std::thread([&] { BorrowedLock lock(mu); }).join();
  take(mu, 1);
  EXPECT_TRUE(mu.biased_to_this_thread()) << "a borrower has not broken the streak";
  { BorrowedLock lock(mu); }
  EXPECT_TRUE(mu.biased_to_this_thread()) << "its own thread borrows nothing";
}

TEST(BiasedMutex, TheBiasedThreadWaitsUntilItIsGivenBack) {
  NEEDS_BARRIER();
  BiasedMutex mu;
  std::atomic<int> turn{0};
  std::atomic<bool> owner_is_in{false};
  std::thread owner([&] {
    take(mu, BiasedMutex::kFirstStreak + 1);
    turn = 1;
    while (turn != 2) std::this_thread::yield();
    {
      BiasedLock lock(mu);
      owner_is_in = true;
    }
    EXPECT_TRUE(mu.biased_to_this_thread());
    take(mu, 1);
  });
  while (turn != 1) std::this_thread::yield();
  {
    BorrowedLock lock(mu);
    turn = 2;
    for (int i = 0; i < 1000; i++) std::this_thread::yield();
    EXPECT_FALSE(owner_is_in);
  }
  owner.join();
  EXPECT_TRUE(owner_is_in);
}

// Whether try_lock() fails in another thread.
bool is_refused_to_another(BiasedMutex& mu) {
  bool refused = true;
  std::thread([&] {
    if (!mu.try_lock()) return;
    refused = false;
    mu.unlock();
  }).join();
  return refused;
}

TEST(BiasedMutex, TryLockFailsWhenHeld) {
  BiasedMutex mu;
  for (const unsigned times : {1u, BiasedMutex::kFirstStreak + 1, 1u}) {
    take(mu, times);
    EXPECT_FALSE(is_refused_to_another(mu));
    if (!mu.try_lock()) {
      ADD_FAILURE() << "nobody holds it";
      continue;
    }
    EXPECT_TRUE(is_refused_to_another(mu)) << "held";
    mu.unlock();
  }
}

TEST(BiasedMutex, TwoCanBeHeldAtOnce) {
  BiasedMutex a(LockRank::kPath), b(LockRank::kLogQueue);
  take(a, BiasedMutex::kFirstStreak + 1);
  take(b, BiasedMutex::kFirstStreak + 1);
  for (int i = 0; i < 3; i++) {
    std::atomic<bool> other_is_in{false};
    std::thread other;
    BiasedLock first(a);
    {
      BiasedLock second(b);
      other = std::thread([&] {
        BiasedLock lock(b);
        other_is_in = true;
      });
      for (int k = 0; k < 200; k++) std::this_thread::yield();
      EXPECT_FALSE(other_is_in);
    }
    other.join();
    EXPECT_TRUE(other_is_in);
  }
}

// A thread's record goes to the next thread, with all its biases.
TEST(BiasedMutex, OutlivesItsThreads) {
  BiasedMutex mu;
  uint64_t counter = 0;
  for (int t = 0; t < 50; t++)
    std::thread([&] {
      for (unsigned i = 0; i < 2 * BiasedMutex::kMostStreak; i++) {
        BiasedLock lock(mu);
        counter++;
      }
    }).join();
  BiasedLock lock(mu);
  EXPECT_EQ(counter, 50 * 2 * BiasedMutex::kMostStreak);
}

TEST(BiasedMutex, NoTwoThreadsHaveOneSerial) {
  const ThreadSerial mine = this_thread_serial();
  EXPECT_EQ(this_thread_serial(), mine);
  ThreadSerial one = 0, other = 0;
  std::thread([&] { one = this_thread_serial(); }).join();
  std::thread([&] { other = this_thread_serial(); }).join();
  EXPECT_NE(one, 0u);
  EXPECT_NE(one, mine);
  EXPECT_NE(one, other);
}

}  // namespace
}  // namespace pcache
