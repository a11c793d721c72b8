// SPDX-License-Identifier: GPL-2.0-or-later
// BiasedMutex: a mutex that becomes biased to the thread that takes it most. That thread locks and
// unlocks it without a locked instruction, and so without waiting for its streaming stores to drain
// (persist.h), which takes as long as storing 4 KiB. Any other thread first revokes the bias with a
// barrier in all threads (process_barrier.h): some microseconds. Each revocation delays the next
// bias.
//
// Invariants
// - Mutual exclusion, and the visibility of what is written under it, are as of any mutex.
// - A thread that reads without the mutex (as lock-free readers of an index do) is NOT sure to see
//   what the biased thread wrote under it, nor the streaming stores before that, until it has
//   called settle().
// - biased_to_this_thread() can become false at any time; it says what is cheap, not what is safe.
// - Background work suspends the bias (BorrowedLock) and gives it back when it unlocks.
// - Mutexes that are held by bias are unlocked in reverse order, as scoped locks do.
// - Where there is no process barrier it is never biased: a Mutex.
//
// How: the biased thread notes the mutex in its own record, then looks at owner_ again. A thread
// that revokes changes owner_, makes the barrier, and waits until the record no longer has the
// mutex. Each of the two stores first and loads then; the barrier orders this for both.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/mutex.h"

namespace pcache {

// A thread's identity: never 0, and no two threads of a process have the same.
using ThreadSerial = uint64_t;

namespace biased_impl {

struct alignas(64) Record {
  // The mutexes that its thread holds by bias, in the order in which it has taken them.
  static constexpr uint32_t kMostHeld = 4;
  std::atomic<const void*> inside[kMostHeld] = {};
  uint32_t held = 0;  // used by its thread alone
  ThreadSerial serial = 0;
  Record* next = nullptr;  // in the list of free records

  bool is_inside(const void* mutex) const {
    for (const auto& one : inside)
      if (one.load(std::memory_order_acquire) == mutex) return true;
    return false;
  }
};

// The record of all threads that have none: its serial is 0, and no mutex is biased to it.
extern Record g_nobody;
// initial-exec makes it a load, not a call, also in a library that is opened at run time.
extern constinit thread_local Record* t_record [[gnu::tls_model("initial-exec")]];
ThreadSerial new_thread_serial();

}  // namespace biased_impl

inline ThreadSerial this_thread_serial() {
  const ThreadSerial known = biased_impl::t_record->serial;
  return known != 0 ? known : biased_impl::new_thread_serial();
}

class CAPABILITY("mutex") BiasedMutex {
 public:
  explicit BiasedMutex(LockRank rank = LockRank::kLeaf)
#ifndef NDEBUG
      : rank_(rank)
#endif
  {
  }
  BiasedMutex(const BiasedMutex&) = delete;
  BiasedMutex& operator=(const BiasedMutex&) = delete;

  void lock() ACQUIRE() NO_THREAD_SAFETY_ANALYSIS {
    lock_order::check(rank());
    if (lock_by_bias() == nullptr) lock_slow();
    lock_order::taken(this, rank());
  }
  // False also when this thread holds it. Waits for its owner if it is biased to another thread.
  bool try_lock() TRY_ACQUIRE(true);
  void unlock() RELEASE() NO_THREAD_SAFETY_ANALYSIS {
    lock_order::dropped(this);
    Record* const me = biased_impl::t_record;
    const uint32_t held = me->held;
    if (held > 0 && me->inside[held - 1].load(std::memory_order_relaxed) == this) [[likely]] {
      unlock_by_bias(me);
    } else {
      PCACHE_DCHECK(!me->is_inside(this));
      mu_.unlock();
    }
  }

  bool biased_to_this_thread() const {
    return owner_.load(std::memory_order_relaxed) == biased_impl::t_record;
  }
  bool is_biased() const { return owner_.load(std::memory_order_relaxed) != nullptr; }
  // Makes visible to this thread all stores that precede what it has read without the mutex. Costs
  // a load, unless the mutex is biased to another thread.
  void settle() EXCLUDES(this) {
    Record* const owner = owner_.load(std::memory_order_acquire);
    if (owner != nullptr && owner != biased_impl::t_record) [[unlikely]]
      settle_slow();
  }

  // For tests: a new mutex becomes biased when one thread has taken it so many times in a row (0:
  // at once). Each revocation doubles the number, up to kMostStreak.
  static void set_first_streak(uint32_t times);
  static constexpr uint32_t kFirstStreak = 32, kMostStreak = 1024;

 private:
  friend class BiasedLock;
  friend class BorrowedLock;
  using Record = biased_impl::Record;
#ifdef NDEBUG
  static constexpr LockRank rank() { return LockRank::kLeaf; }  // never used
#else
  LockRank rank() const { return rank_; }
#endif
  // nullptr: not locked, as it is not biased to this thread, or the thread holds kMostHeld by bias.
  [[gnu::always_inline]] Record* lock_by_bias() {
    Record* const me = biased_impl::t_record;
    const uint32_t held = me->held;
    if (owner_.load(std::memory_order_relaxed) != me || held == Record::kMostHeld) [[unlikely]]
      return nullptr;
    me->inside[held].store(this, std::memory_order_release);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (owner_.load(std::memory_order_acquire) == me) [[likely]] {
      me->held = held + 1;
      return me;
    }
    me->inside[held].store(nullptr, std::memory_order_release);
    return nullptr;
  }
  // Unlocks the one that this thread has locked last by bias.
  [[gnu::always_inline]] static void unlock_by_bias(Record* me) {
    const uint32_t held = me->held - 1;
    me->held = held;
    me->inside[held].store(nullptr, std::memory_order_release);
  }
  void lock_slow();
  void note_taken(Record* me) REQUIRES(mu_);
  void settle_slow();
  void suspend_bias(Record* owner) REQUIRES(mu_);
  void revoke_bias(Record* owner) REQUIRES(mu_);

  // The record of the thread that it is biased to, or nullptr; g_being_revoked during a revocation.
  std::atomic<Record*> owner_{nullptr};
  LockWord mu_;
  uint32_t streak_ GUARDED_BY(mu_) = 0;
  uint32_t needed_ GUARDED_BY(mu_) = UINT32_MAX;  // streak for a bias; UINT32_MAX: not set yet
  const Record* last_ GUARDED_BY(mu_) = nullptr;
#ifndef NDEBUG
  const LockRank rank_;
#endif
};

class SCOPED_CAPABILITY BiasedLock {
 public:
  explicit BiasedLock(BiasedMutex& mu) ACQUIRE(mu) : BiasedLock(mu, [] {}) {}
  // Calls `before` first if the mutex has to be locked with a locked instruction.
  template <typename Before>
  BiasedLock(BiasedMutex& mu, Before before) ACQUIRE(mu) NO_THREAD_SAFETY_ANALYSIS
      : mu_(mu),
        by_bias_((lock_order::check(mu.rank()), mu.lock_by_bias())) {
    if (by_bias_ == nullptr) [[unlikely]] {
      before();
      mu.lock_slow();
    }
    lock_order::taken(&mu, mu.rank());
  }
  ~BiasedLock() RELEASE() NO_THREAD_SAFETY_ANALYSIS {
    lock_order::dropped(&mu_);
    if (by_bias_ != nullptr) [[likely]]
      BiasedMutex::unlock_by_bias(by_bias_);
    else
      mu_.mu_.unlock();
  }
  BiasedLock(const BiasedLock&) = delete;
  BiasedLock& operator=(const BiasedLock&) = delete;
  // The serial of this thread if it holds the mutex by bias; else 0.
  ThreadSerial by_bias() const { return by_bias_ != nullptr ? by_bias_->serial : 0; }

 private:
  BiasedMutex& mu_;
  biased_impl::Record* const by_bias_;
};

// For background work, which takes the mutex seldom and briefly and has made no streaming stores
// for what it protects. It costs a barrier, but the biased thread goes on without a locked
// instruction and a fence for each of its next writes.
class SCOPED_CAPABILITY BorrowedLock {
 public:
  explicit BorrowedLock(BiasedMutex& mu) ACQUIRE(mu);
  ~BorrowedLock() RELEASE();
  BorrowedLock(const BorrowedLock&) = delete;
  BorrowedLock& operator=(const BorrowedLock&) = delete;

 private:
  BiasedMutex& mu_;
  biased_impl::Record* const by_bias_;
  biased_impl::Record* suspended_ = nullptr;  // gets its bias back
};

}  // namespace pcache
