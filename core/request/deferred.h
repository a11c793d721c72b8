// SPDX-License-Identifier: GPL-2.0-or-later
// Deferred: writes and flushes that found the cache full, in the order of their arrival; and, in a
// list of their own, requests for zeros that find too many of them waiting for the backing device,
// or are long.
//
// Invariants
// - While a write waits, one that arrives later waits behind it, and fills take no space.
// - Nobody waits in a loop or for a timer: add() wakes whoever makes room, and who has made room
//   calls run(), in its own thread. A request that run() has let through is handed to its queue's
//   CompletionQueue.
// - A request for zeros that waits for writeback waits behind others of its kind, and only who
//   overlaps it waits behind it, in its list: it may be as long as the device. Each run() does one
//   part of it at most. When it finds no space, or no credit, it takes its turn among the writes.
// - Both lists are in the order of arrival, and of two requests that overlap the one that has come
//   first goes first, whichever list they are in.
// - A request is in its list until it is complete; its progress is touched by run() alone.
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

  // No write has to wait behind another.
  bool empty() const {
    return (count_.load(std::memory_order_acquire) & ~(kToDevice | kZerosWait)) == 0;
  }
  // Likewise, nor behind zeros, and a write is complete when it is in pmem.
  bool lets_all_pass() const { return count_.load(std::memory_order_acquire) == 0; }
  bool zeros_wait() const { return zeros_count_.load(std::memory_order_relaxed) > 0; }
  // The request has to wait behind zeros that wait, or behind one that does.
  bool is_behind_zeros(const pcache_request& request) EXCLUDES(mu_);
  // All that wait do so for writeback, and for no space.
  bool waits_for_writeback() const { return waiting_writes() == 0 && zeros_wait(); }
  uint32_t count() const { return waiting_writes() + zeros_count_.load(std::memory_order_relaxed); }
  // From now on empty() is false. So each write comes to Deferred, which fails it because the log
  // has failed. A write that is done at once needs no test for that.
  void close() { count_.fetch_or(kClosed, std::memory_order_release); }
  // Whether writes are acknowledged on the backing device. A write that is done at once needs no
  // test for that either.
  void set_to_device(bool on) {
    on ? count_.fetch_or(kToDevice, std::memory_order_release)
       : count_.fetch_and(~kToDevice, std::memory_order_release);
  }
  // From here on the request is in flight in `queue`, which is not full, and waits with what it has
  // done already. Called by the queue's thread; returns what submit() does, 0.
  int add(QueueState& queue, pcache_request* request, const WriteProgress& progress) EXCLUDES(mu_);
  // Lets them go on, one after the other, until one finds no space, or what else it waits for,
  // again. Any thread.
  void run() EXCLUDES(run_mu_, mu_);
  // The same of writes and flushes, for a thread that has something else to do.
  void run_writes() EXCLUDES(run_mu_, mu_);
  // Whoever waits may be able to go on.
  void wake() {
    if (count() > 0 && wake_) wake_();
  }
  // Takes out those of `queue` and completes them with ECANCELED; any part may have been written.
  // How many. Any thread.
  uint32_t cancel(const QueueState& queue) EXCLUDES(run_mu_, mu_);
  // Completes all that wait with this errno.
  void fail_all(int error) EXCLUDES(run_mu_, mu_);

 private:
  static constexpr uint32_t kClosed = 1u << 31, kToDevice = 1u << 30, kZerosWait = 1u << 29;
  uint32_t waiting_writes() const {
    return count_.load(std::memory_order_relaxed) & ~(kClosed | kToDevice | kZerosWait);
  }
  void insert(PendingList* list, PendingRequest* pending) REQUIRES(mu_);
  void note_zeros_left(uint32_t n) REQUIRES(mu_);
  // From one list's front to its place in the other.
  void move_front(PendingList* from, PendingList* to) EXCLUDES(mu_);
  // One that overlaps it and has come before it is in the list.
  bool has_earlier(const PendingList& list, const PendingRequest& pending) EXCLUDES(mu_);
  PendingRequest* front(const PendingList& list) EXCLUDES(mu_);
  bool admit(PendingRequest& pending);
  void pop_front(PendingList* list) EXCLUDES(mu_);
  // With -EINPROGRESS: to DeviceAcks.
  void finish_front(PendingList* list, PendingRequest* pending, int result) EXCLUDES(mu_);
  void run_list() REQUIRES(run_mu_);
  // True: there is more of it to be done at once.
  bool run_zeros() REQUIRES(run_mu_);
  // One attempt: 0 or a negative errno, as Op::resume().
  int resume(PendingRequest& pending);

  RequestState& cache_;
  std::function<void()> wake_;
  Mutex run_mu_{LockRank::kStalled};
  Mutex mu_ ACQUIRED_AFTER(run_mu_);
  PendingList list_ GUARDED_BY(mu_), zeros_ GUARDED_BY(mu_);
  uint64_t serial_ GUARDED_BY(mu_) = 0;
  std::atomic<uint32_t> count_{0};        // of list_, and the bits above
  std::atomic<uint32_t> zeros_count_{0};  // of zeros_
};

}  // namespace pcache
