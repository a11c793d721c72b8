// SPDX-License-Identifier: GPL-2.0-or-later
// Mutex: one 32-bit word. An uncontended lock/unlock pair takes 2 locked instructions; a contended
// lock sleeps (futex), so that waiters do not spin while the holder is preempted. The rank says
// which locks a thread may hold when it takes this one (lock_order.h).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>

#include "base/lock_order.h"
#include "base/thread_annotations.h"

namespace pcache {

// The lock word alone, without a rank: other locks are made of it.
class CAPABILITY("mutex") LockWord {
 public:
  LockWord() = default;
  LockWord(const LockWord&) = delete;
  LockWord& operator=(const LockWord&) = delete;

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

class CAPABILITY("mutex") Mutex {
 public:
  explicit constexpr Mutex(LockRank rank = LockRank::kLeaf)
#ifndef NDEBUG
      : rank_(rank)
#endif
  {
  }
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() ACQUIRE() NO_THREAD_SAFETY_ANALYSIS {
    lock_order::check(rank());
    word_.lock();
    lock_order::taken(this, rank());
  }
  bool try_lock() TRY_ACQUIRE(true) NO_THREAD_SAFETY_ANALYSIS {
    const bool locked = word_.try_lock();
    if (locked) lock_order::taken(this, rank());
    return locked;
  }
  void unlock() RELEASE() NO_THREAD_SAFETY_ANALYSIS {
    lock_order::dropped(this);
    word_.unlock();
  }

 private:
#ifdef NDEBUG
  static constexpr LockRank rank() { return LockRank::kLeaf; }  // never used
#else
  LockRank rank() const { return rank_; }
  const LockRank rank_;
#endif
  LockWord word_;
};

class SCOPED_CAPABILITY LockWordLock {
 public:
  explicit LockWordLock(LockWord& word) ACQUIRE(word) : word_(word) { word_.lock(); }
  ~LockWordLock() RELEASE() { word_.unlock(); }
  LockWordLock(const LockWordLock&) = delete;
  LockWordLock& operator=(const LockWordLock&) = delete;

 private:
  LockWord& word_;
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

// Waits with a Mutex held. Callers wait in a loop that tests their condition.
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
