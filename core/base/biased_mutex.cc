// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/biased_mutex.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <new>

#include "base/process_barrier.h"

namespace pcache {

namespace biased_impl {

constinit Record g_nobody;
constinit thread_local Record* t_record [[gnu::tls_model("initial-exec")]] = &g_nobody;

}  // namespace biased_impl

using biased_impl::g_nobody;
using biased_impl::Record;
using biased_impl::t_record;

namespace {

constinit Record g_being_revoked;
constinit std::atomic<uint32_t> g_first_streak{BiasedMutex::kFirstStreak};

// Records are never freed, since a mutex may name one long after its thread has ended: a later
// thread gets it, and every bias to it. That is safe, as the earlier thread has ended.
constinit Mutex g_records_mu;
constinit Record* g_free_records GUARDED_BY(g_records_mu) = nullptr;

ThreadSerial next_serial() {
  static std::atomic<ThreadSerial> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

// A thread has its record from its first lock to its end. A pthread key tells its end, and not a
// C++ destructor: to register a destructor takes memory, and ends the process when there is none.
constinit thread_local bool t_ended [[gnu::tls_model("initial-exec")]] = false;

void give_back(Record* record) {
  MutexLock lock(g_records_mu);
  record->next = g_free_records;
  g_free_records = record;
}

void on_thread_end(void* record) {
  t_ended = true;
  t_record = &g_nobody;  // what this thread locks from here on is not biased to it
  give_back(static_cast<Record*>(record));
}

// The first lock of the process makes the key. Without the key no mutex is ever biased.
struct ThreadEndKey {
  pthread_key_t key;
  const bool made = pthread_key_create(&key, on_thread_end) == 0;
};

Record* take_record() {
  {
    MutexLock lock(g_records_mu);
    if (Record* const record = g_free_records) {
      g_free_records = record->next;
      return record;
    }
  }
  return new (std::nothrow) Record;
}

// Without memory no mutex is biased to this thread, until a later lock of it finds some.
Record* register_this_thread() {
  static const ThreadEndKey end{};
  if (t_record != &g_nobody || t_ended || !end.made) return t_record;
  Record* const record = take_record();
  if (!record) return t_record;
  if (pthread_setspecific(end.key, record) != 0) {
    give_back(record);
    return t_record;
  }
  record->serial = next_serial();
  t_record = record;
  return record;
}

}  // namespace

// A thread that has given its record back, at its end, gets a new serial with each call.
ThreadSerial biased_impl::new_thread_serial() {
  const Record* const record = register_this_thread();
  return record == &g_nobody ? next_serial() : record->serial;
}

void BiasedMutex::set_first_streak(uint32_t times) { g_first_streak.store(times); }

void BiasedMutex::lock_slow() NO_THREAD_SAFETY_ANALYSIS {
  mu_.lock();
  note_taken(register_this_thread());
}

bool BiasedMutex::try_lock() NO_THREAD_SAFETY_ANALYSIS {
  Record* const me = register_this_thread();
  if (me->is_inside(this) || !mu_.try_lock()) return false;
  note_taken(me);
  lock_order::taken(this, rank());
  return true;
}

void BiasedMutex::note_taken(Record* me) {
  Record* const owner = owner_.load(std::memory_order_relaxed);
  if (owner == me) {
    PCACHE_CHECK(!me->is_inside(this));  // locked twice
    return;                              // it holds kMostHeld others by bias
  }
  if (owner != nullptr) revoke_bias(owner);
  if (needed_ == UINT32_MAX) needed_ = g_first_streak.load(std::memory_order_relaxed);
  streak_ = last_ == me ? streak_ + 1 : 0;
  last_ = me;
  if (streak_ >= needed_ && me != &g_nobody && process_barrier_available())
    owner_.store(me, std::memory_order_release);
}

void BiasedMutex::settle_slow() {
  LockWordLock lock(mu_);
  Record* const owner = owner_.load(std::memory_order_relaxed);
  if (owner != nullptr && owner != t_record) revoke_bias(owner);
}

// Afterwards the mutex is not biased, and `owner` does not hold it.
void BiasedMutex::suspend_bias(Record* owner) {
  // Not nullptr before the barrier: a settle() that reads nullptr does not wait for the barrier.
  owner_.store(&g_being_revoked, std::memory_order_seq_cst);
  process_barrier();
  for (unsigned tries = 0; owner->is_inside(this); tries++) {
    if (tries < 100) {
      __builtin_ia32_pause();
    } else {
      // The owner was preempted while it holds the mutex. A yield would not let it run if this
      // thread has real-time priority.
      const timespec a_little{0, 50000};
      nanosleep(&a_little, nullptr);
    }
  }
  owner_.store(nullptr, std::memory_order_release);
}

void BiasedMutex::revoke_bias(Record* owner) {
  suspend_bias(owner);
  last_ = nullptr;
  streak_ = 0;
  needed_ = std::min(needed_ * 2, kMostStreak);
}

BorrowedLock::BorrowedLock(BiasedMutex& mu) NO_THREAD_SAFETY_ANALYSIS
    : mu_(mu),
      by_bias_((lock_order::check(mu.rank()), mu.lock_by_bias())) {
  if (by_bias_ == nullptr) {
    mu_.mu_.lock();
    Record* const owner = mu_.owner_.load(std::memory_order_relaxed);
    if (owner != nullptr && owner != t_record) {
      mu_.suspend_bias(owner);
      suspended_ = owner;
    }
  }
  lock_order::taken(&mu_, mu_.rank());
}

// Gives the bias back before it unlocks, so no thread can have taken the mutex in between.
BorrowedLock::~BorrowedLock() NO_THREAD_SAFETY_ANALYSIS {
  lock_order::dropped(&mu_);
  if (by_bias_ != nullptr) {
    BiasedMutex::unlock_by_bias(by_bias_);
  } else {
    if (suspended_ != nullptr) mu_.owner_.store(suspended_, std::memory_order_release);
    mu_.mu_.unlock();
  }
}

}  // namespace pcache
