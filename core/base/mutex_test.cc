// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/mutex.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace pcache {
namespace {

TEST(Mutex, CountsUnderContention) {
  Mutex mu;
  uint64_t counter = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&] {
      for (int i = 0; i < 100000; i++) {
        MutexLock lock(mu);
        counter++;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(counter, 400000u);
}

TEST(Mutex, TryLockFailsWhenHeld) {
  Mutex mu;
  MutexLock lock(mu);
  bool taken = false;
  std::thread([&] {
    if (!mu.try_lock()) return;
    taken = true;
    mu.unlock();
  }).join();
  EXPECT_FALSE(taken);
}

}  // namespace
}  // namespace pcache
