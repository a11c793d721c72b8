// SPDX-License-Identifier: GPL-2.0-or-later
// Queue: one thread's way into the cache, with its own ring to the backing device.
//
// Invariants
// - submit(), reap() and the destructor are called by one thread at a time. complete() and the
//   return of fills come from any thread that polls.
// - A request that is complete when submit() returns never comes out of reap().
// - A read that joined another queue's fill does not depend on that queue's thread: while it waits,
//   its own thread polls all queues' rings (help).
// - A write or flush that waits for space is in Deferred; cancel() and the destructor give it up.
// Locks: done_mu_ is a leaf. QueueSet::mu_ is taken with nothing else held.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "request/read_path.h"

namespace pcache {

class Queue;

// The queues of a cache, for helping each other.
class QueueSet {
 public:
  void add(Queue* queue) EXCLUDES(mu_);
  void remove(Queue* queue, const QueueCounters& counters) EXCLUDES(mu_);
  std::vector<int> fds() EXCLUDES(mu_);
  void poll_all() EXCLUDES(mu_);
  size_t size() EXCLUDES(mu_);
  // Calls `visit` with the counters of every queue there is and of those that were.
  template <typename Visit>
  void each_counters(Visit visit) EXCLUDES(mu_);

 private:
  Mutex mu_;
  std::vector<Queue*> queues_ GUARDED_BY(mu_);
  QueueCounters gone_ GUARDED_BY(mu_);
};

class Queue {
 public:
  static Result<std::unique_ptr<Queue>> create(RequestContext& ctx, QueueSet& set, DataHead& head,
                                               uint32_t depth);
  ~Queue();

  int submit(pcache_request* request);
  int reap(pcache_request** done, uint32_t min, uint32_t max, int64_t timeout_ns);
  // Gives up what waits for space: it comes out of reap() with -ECANCELED. How many. Any thread.
  uint32_t cancel() { return ctx_.deferred.cancel(*this); }
  uint32_t in_flight() const { return in_flight_; }
  const QueueCounters& counters() const { return counters_; }

  // For the read path.
  RequestContext& context() { return ctx_; }
  DataHead& head() { return head_; }
  BlockQueue& device() { return *device_; }
  PendingRequest* lend_pending(pcache_request* request);
  Fill* lend_fill() EXCLUDES(done_mu_);
  void return_fill(Fill* fill) EXCLUDES(done_mu_);
  void complete(PendingRequest* read) EXCLUDES(done_mu_);

 private:
  Queue(RequestContext& ctx, QueueSet& set, DataHead& head, uint32_t depth,
        std::unique_ptr<BlockQueue> device, int wake_fd);
  int check(const pcache_request& request) const;
  int check_range(const pcache_request& request) const;
  // The four return what submit() does. The plain ones are not inlined into it: what most requests
  // need of the stack would be theirs and its.
  [[gnu::noinline]] int start_read(pcache_request* request);
  int start_any_read(pcache_request* request);
  [[gnu::noinline]] int start_plain_write(pcache_request* request);
  int start_write(pcache_request* request);
  // Whether the next one is timed, after so many before it.
  static bool sampled(uint64_t before) { return before % kSampling == kSampling - 1; }
  void note_latency(LatencyClass what, uint64_t since_ns);
  uint32_t take_done(pcache_request** done, uint32_t max) EXCLUDES(done_mu_);
  void wait(int64_t timeout_ns) EXCLUDES(done_mu_);
  void wait_for_wake(int64_t timeout_ns) EXCLUDES(done_mu_);

  RequestContext& ctx_;
  QueueSet& set_;
  DataHead& head_;
  const uint32_t depth_;
  std::unique_ptr<BlockQueue> device_;
  const int wake_fd_;  // eventfd: a request of ours was completed by another thread
  ReadPath read_path_;
  uint32_t in_flight_ = 0;
  uint32_t joined_ = 0;  // reads in flight that wait for another queue's fill
  uint32_t waiting_for_space_ = 0;
  QueueCounters counters_;
  std::vector<PendingRequest*> free_pending_;
  std::vector<std::unique_ptr<PendingRequest>> all_pending_;

  Mutex done_mu_;
  std::deque<PendingRequest*> done_ GUARDED_BY(done_mu_);
  bool waiting_ GUARDED_BY(done_mu_) = false;
  std::vector<Fill*> free_fills_ GUARDED_BY(done_mu_);
  std::vector<std::unique_ptr<Fill>> all_fills_ GUARDED_BY(done_mu_);
};

template <typename Visit>
void QueueSet::each_counters(Visit visit) {
  MutexLock lock(mu_);
  visit(gone_);
  for (Queue* queue : queues_) visit(queue->counters());
}

}  // namespace pcache
