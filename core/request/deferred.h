// SPDX-License-Identifier: GPL-2.0-or-later
// Deferred: writes and flushes that found the cache full, in the order of their arrival.
//
// Invariants
// - While one waits, a write that arrives later waits behind it, and fills take no space.
// - Nobody waits in a loop or for a timer: add() wakes whoever makes room, and who has made room
//   calls run(), in its own thread. A request that run() has let through is handed to its queue's
//   CompletionQueue.
// - A request is in the list until it is complete; its progress is touched by run() alone.
// Locks: run_mu_ comes before a stripe's and the log's; mu_ is a leaf.
#pragma once

#include <atomic>
#include <functional>

#include "base/mutex.h"
#include "request/pending.h"

namespace pcache {

class RequestState;

class Deferred {
 public:
  explicit Deferred(RequestState& cache) : cache_(cache) {}

  // Called after each add(). Set while one thread has the cache.
  void set_wake(std::function<void()> wake) { wake_ = std::move(wake); }

  bool empty() const { return count_.load(std::memory_order_acquire) == 0; }
  // The first waits for no space, but for dirty data to be written back.
  bool waits_for_writeback() const { return for_writeback_.load(std::memory_order_relaxed); }
  uint32_t count() const { return count_.load(std::memory_order_relaxed) & ~kClosed; }
  // From now on empty() is false. So each write comes to Deferred, which fails it because the log
  // has failed. A write that is done at once needs no test for that.
  void close() { count_.fetch_or(kClosed, std::memory_order_release); }
  // From here on the request is in flight in `queue`, which is not full, and waits with what it has
  // done already. Called by the queue's thread; returns what submit() does, 0.
  int add(QueueState& queue, pcache_request* request, const WriteProgress& progress) EXCLUDES(mu_);
  // Lets them go on, one after the other, until one finds no space or no credit (see Pace) again.
  // Any thread.
  void run() EXCLUDES(run_mu_, mu_);
  // Takes out those of `queue` and completes them with ECANCELED; any part may have been written.
  // How many. Any thread.
  uint32_t cancel(const QueueState& queue) EXCLUDES(run_mu_, mu_);
  // Completes all that wait with this errno.
  void fail_all(int error) EXCLUDES(run_mu_, mu_);

 private:
  static constexpr uint32_t kClosed = 1u << 31;
  void push(PendingRequest* pending) EXCLUDES(mu_);
  PendingRequest* front() EXCLUDES(mu_);
  bool admit(PendingRequest& pending);
  void pop_front() EXCLUDES(mu_);
  // One attempt: 0 or a negative errno, as Op::resume().
  int resume(PendingRequest& pending);

  RequestState& cache_;
  std::function<void()> wake_;
  Mutex run_mu_{LockRank::kStalled};
  Mutex mu_ ACQUIRED_AFTER(run_mu_);
  PendingList list_ GUARDED_BY(mu_);
  std::atomic<uint32_t> count_{0};
  std::atomic<bool> for_writeback_{false};  // set under run_mu_
};

}  // namespace pcache
