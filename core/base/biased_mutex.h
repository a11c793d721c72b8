// SPDX-License-Identifier: GPL-2.0-or-later
// BiasedMutex: a mutex that leans towards the thread that takes it most. That thread takes and
// drops it without a locked instruction, and so without waiting for its streaming stores to drain
// (persist.h), which takes as long as storing 4 KiB. Every other thread first takes the bias away
// with a barrier in all threads (process_barrier.h): some microseconds, and the more often that has
// happened the longer it lasts until the mutex leans again.
//
// Invariants
// - Mutual exclusion, and what was written under it is seen under it, as of any mutex.
// - What its biased thread wrote under it is NOT seen by who reads without it (as lock-free readers
//   of an index do), until that reader has called settle(). Streaming stores made before it was
//   taken are the same case.
// - leans_to_this_thread() can end at any time; it says what is cheap, not what is safe.
// - Background work borrows it (BorrowedLock): once dropped it leans to whom it leant before.
// - What is held by bias is dropped in reverse order, as scoped locks do.
// - Where there is no process barrier it never leans: a Mutex.
//
// How: the biased thread says in its own record what it is inside of, and looks at owner_ again;
// who takes the bias away changes owner_, makes the barrier, and waits until the record says
// something else. Each of the two stores first and loads then; the barrier orders it for both.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/mutex.h"

namespace pcache {

// A thread's identity; never used again, never 0.
using ThreadSerial = uint64_t;

namespace biased_impl {

struct alignas(64) Record {
  // The mutexes that its thread holds by bias, in the order in which it has taken them.
  static constexpr uint32_t kMostHeld = 4;
  std::atomic<const void*> inside[kMostHeld] = {};
  uint32_t held = 0;  // the thread's own
  ThreadSerial serial = 0;
  Record* next = nullptr;  // of the free ones

  bool is_inside(const void* mutex) const {
    for (const auto& one : inside)
      if (one.load(std::memory_order_acquire) == mutex) return true;
    return false;
  }
};

// Of threads that have taken none yet; owns nothing.
extern Record g_nobody;  // its serial is 0, and nothing leans to it
// initial-exec: a load, not a call, also in a library that is opened at run time.
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
  // False also when this thread holds it. Waits where the bias is to be taken from another thread.
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

  bool leans_to_this_thread() const {
    return owner_.load(std::memory_order_relaxed) == biased_impl::t_record;
  }
  bool leans() const { return owner_.load(std::memory_order_relaxed) != nullptr; }
  // Of what this thread has read without the mutex, the stores that preceded it are visible to it
  // afterwards. Costs a load, unless the mutex leans to another thread.
  void settle() EXCLUDES(this) {
    Record* const owner = owner_.load(std::memory_order_acquire);
    if (owner != nullptr && owner != biased_impl::t_record) [[unlikely]]
      settle_slow();
  }

  // For tests: a new mutex leans once one thread has taken it so many times in a row (0: at once);
  // each time the bias is taken away it doubles, up to kMostStreak.
  static void set_first_streak(uint32_t times);
  static constexpr uint32_t kFirstStreak = 32, kMostStreak = 1024;

 private:
  friend class BiasedLock;
  friend class BorrowedLock;
  using Record = biased_impl::Record;
#ifdef NDEBUG
  static constexpr LockRank rank() { return LockRank::kLeaf; }  // nobody asks
#else
  LockRank rank() const { return rank_; }
#endif
  // This thread's record, which says so; nullptr: it does not lean to this thread, nothing is held.
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
  // Of what it has taken last and not dropped.
  [[gnu::always_inline]] static void unlock_by_bias(Record* me) {
    const uint32_t held = me->held - 1;
    me->held = held;
    me->inside[held].store(nullptr, std::memory_order_release);
  }
  void lock_slow();
  void note_taken(Record* me) REQUIRES(mu_);
  void settle_slow();
  void suspend_bias(Record* owner) REQUIRES(mu_);
  void take_bias_away(Record* owner) REQUIRES(mu_);

  // nullptr; or the record of the thread it leans to; or, while that is being taken away, a value
  // that is no thread's.
  std::atomic<Record*> owner_{nullptr};
  LockWord mu_;
  uint32_t streak_ GUARDED_BY(mu_) = 0;
  uint32_t needed_ GUARDED_BY(mu_) = UINT32_MAX;  // UINT32_MAX: the first one
  const Record* last_ GUARDED_BY(mu_) = nullptr;
#ifndef NDEBUG
  const LockRank rank_;
#endif
};

class SCOPED_CAPABILITY BiasedLock {
 public:
  explicit BiasedLock(BiasedMutex& mu) ACQUIRE(mu) : BiasedLock(mu, [] {}) {}
  // Calls `before` when it has to be locked with a locked instruction.
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
  // Which thread this is, if it has the mutex without a locked instruction; else 0.
  ThreadSerial by_bias() const { return by_bias_ != nullptr ? by_bias_->serial : 0; }

 private:
  BiasedMutex& mu_;
  biased_impl::Record* const by_bias_;
};

// Of background work, which takes the mutex seldom and briefly and has made no streaming stores for
// what it protects. The thread that it leans to pays for a barrier, and not with a locked
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
  biased_impl::Record* lender_ = nullptr;  // whom it is given back to
};

}  // namespace pcache
