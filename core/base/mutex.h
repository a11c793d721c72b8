// SPDX-License-Identifier: GPL-2.0-or-later
// Mutex: one 32-bit word, 2 locked instructions per uncontended lock/unlock pair, sleeps (futex)
// when contended, so that a preempted holder does not burn its waiters' time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>

#include "base/thread_annotations.h"

namespace pcache {

class CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() ACQUIRE() {
    uint32_t expected = kFree;
    if (!word_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire)) lock_slow();
  }
  bool try_lock() TRY_ACQUIRE(true) {
    uint32_t expected = kFree;
    return word_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire);
  }
  void unlock() RELEASE() {
    if (word_.exchange(kFree, std::memory_order_release) == kContended) word_.notify_one();
  }

 private:
  static constexpr uint32_t kFree = 0, kHeld = 1, kContended = 2;
  void lock_slow();

  std::atomic<uint32_t> word_{kFree};
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mu) ACQUIRE(mu) : mu_(mu) { mu_.lock(); }
  ~MutexLock() RELEASE() { mu_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mu_;
};

// Waits with a Mutex held; always inside a loop that tests its condition.
class CondVar {
 public:
  void wait(Mutex& mu) REQUIRES(mu) { cv_.wait(mu); }
  template <typename Duration>
  void wait_for(Mutex& mu, Duration duration) REQUIRES(mu) {
    cv_.wait_for(mu, duration);
  }
  void notify_one() { cv_.notify_one(); }
  void notify_all() { cv_.notify_all(); }

 private:
  std::condition_variable_any cv_;
};

}  // namespace pcache
