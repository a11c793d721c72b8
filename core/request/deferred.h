// SPDX-License-Identifier: GPL-2.0-or-later
// Deferred: writes and flushes that found the cache full, in the order of their arrival.
//
// Invariants
// - While one waits, a write that arrives later waits behind it, and fills take no space.
// - Nobody waits in a loop or for a timer: push() wakes whoever makes room, and who has made room
//   calls run(), in its own thread. A request that run() lets through is completed by its queue.
// - A request is in the list until it is complete; its progress is touched by run() alone.
// Locks: run_mu_ comes before a stripe's and the log's; mu_ is a leaf.
#pragma once

#include <atomic>
#include <functional>

#include "base/mutex.h"
#include "request/pending.h"

namespace pcache {

struct RequestContext;

class Deferred {
 public:
  explicit Deferred(RequestContext& ctx) : ctx_(ctx) {}

  // Called after each push(). Set while one thread has the cache.
  void set_wake(std::function<void()> wake) { wake_ = std::move(wake); }

  bool empty() const { return count_.load(std::memory_order_acquire) == 0; }
  uint32_t count() const { return count_.load(std::memory_order_relaxed) & ~kClosed; }
  // From now on it is never empty(): every write comes by here, where it is told that the log has
  // failed, and no write that is done at once has to look.
  void close() { count_.fetch_or(kClosed, std::memory_order_release); }
  void push(PendingRequest* request) EXCLUDES(mu_);
  // Lets them go on, one after the other, until one finds no space or no credit (see Pace) again.
  // Any thread.
  void run() EXCLUDES(run_mu_, mu_);
  // Takes out those of `queue` and completes them with ECANCELED; any part may have been written.
  // How many. Any thread.
  uint32_t cancel(const Queue& queue) EXCLUDES(run_mu_, mu_);
  // Completes all that wait with this errno.
  void fail_all(int error) EXCLUDES(run_mu_, mu_);

 private:
  static constexpr uint32_t kClosed = 1u << 31;
  PendingRequest* front() EXCLUDES(mu_);
  bool admit(PendingRequest& request);
  void pop_front() EXCLUDES(mu_);
  // One attempt: 0 or a negative errno, as write_request().
  int go_on(PendingRequest& request);

  RequestContext& ctx_;
  std::function<void()> wake_;
  Mutex run_mu_{LockRank::kStalled};
  Mutex mu_ ACQUIRED_AFTER(run_mu_);
  PendingRequest* head_ GUARDED_BY(mu_) = nullptr;
  PendingRequest* tail_ GUARDED_BY(mu_) = nullptr;
  std::atomic<uint32_t> count_{0};
};

}  // namespace pcache
