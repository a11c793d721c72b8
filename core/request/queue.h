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
// - All memory that its requests need on their way is there from create() on: a PendingRequest for
//   each of `depth`, and fills_for(depth) fills. Between submit() and reap() nothing is allocated,
//   so what has begun ends, and what it holds comes back, however short memory is.
// - A read that finds no fill free is parked; reap() and submit() go on with it. When the queue is
//   destroyed it ends with ECANCELED.
// Locks: done_mu_ is a leaf. QueueSet::mu_ is taken with nothing else held.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "blockdev/unique_fd.h"
#include "request/read_path.h"
#include "request/ready_fd.h"

namespace pcache {

class Queue;

// The queues of a cache, for helping each other.
class QueueSet {
 public:
  Status add(Queue* queue) EXCLUDES(mu_);
  void remove(Queue* queue, const QueueCounters& counters) EXCLUDES(mu_);
  // Readable while any queue has completions to be polled. Once there has been a queue.
  int fd() const { return epoll_.get(); }
  void poll_all() EXCLUDES(mu_);
  size_t size() EXCLUDES(mu_);
  // Calls `visit` with the counters of every queue there is and of those that were.
  template <typename Visit>
  void each_counters(Visit visit) EXCLUDES(mu_);

 private:
  Mutex mu_{LockRank::kQueues};
  UniqueFd epoll_;  // of their rings; made with the first of them
  std::vector<Queue*> queues_ GUARDED_BY(mu_);
  QueueCounters gone_ GUARDED_BY(mu_);
};

class Queue {
 public:
  // How many fills a queue has: enough to keep its ring full, and more than most reads have gaps.
  static uint32_t fills_for(uint32_t depth) { return std::clamp(2 * depth, 64u, 1u << 14); }

  static Result<std::unique_ptr<Queue>> create(RequestContext& ctx, QueueSet& set, DataHead& head,
                                               uint32_t depth);
  ~Queue();

  int submit(pcache_request* request);
  int reap(pcache_request** done, uint32_t min, uint32_t max, int64_t timeout_ns);
  // Gives up what waits for space: it comes out of reap() with -ECANCELED. How many. Any thread.
  uint32_t cancel() { return ctx_.deferred.cancel(*this); }
  // Readable while reap() has something to do; made when it is first asked for. From the queue's
  // thread.
  Result<int> ready_fd() EXCLUDES(done_mu_);
  // From now on each submit() returns -EPERM. For what must not cost a plain request anything.
  void disown() { depth_ = 0; }
  uint32_t in_flight() const { return in_flight_; }
  const QueueCounters& counters() const { return counters_; }

  // For the read path.
  RequestContext& context() { return ctx_; }
  DataHead& head() { return head_; }
  BlockQueue& device() { return *device_; }
  PendingRequest* lend_pending(pcache_request* request);
  // nullptr: all are on their way.
  Fill* lend_fill() EXCLUDES(done_mu_);
  void return_fill(Fill* fill) EXCLUDES(done_mu_);
  // From its own thread: it waits for another queue's fill.
  void note_joined(PendingRequest* read);
  void complete(PendingRequest* read) EXCLUDES(done_mu_);
  // For tests.
  uint32_t free_fills() EXCLUDES(done_mu_);
  uint32_t parked() const { return parked_count_; }

 private:
  Queue(RequestContext& ctx, QueueSet& set, DataHead& head, uint32_t depth,
        std::unique_ptr<BlockQueue> device, UniqueFd wake_fd);
  int check(const pcache_request& request) const;
  int not_taken() const { return depth_ == 0 ? -EPERM : -EAGAIN; }
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
  void return_pending(PendingRequest* request);
  void park(PendingRequest* read);
  // Has looked at all of it, or never will.
  void walked(PendingRequest* read, int error);
  // With those that are parked, as far as there are fills.
  void go_on_reading();
  void cancel_parked();
  uint32_t take_done(pcache_request** done, uint32_t max) EXCLUDES(done_mu_);
  void wake() REQUIRES(done_mu_);
  // Before its thread goes away to wait on the descriptor, if there is one: raised or lowered.
  void settle_ready_fd() EXCLUDES(done_mu_);
  void poll_rings() EXCLUDES(done_mu_);
  void wait(int64_t timeout_ns) EXCLUDES(done_mu_);
  void wait_for_wake(int64_t timeout_ns) EXCLUDES(done_mu_);

  RequestContext& ctx_;
  QueueSet& set_;
  DataHead& head_;
  uint32_t depth_;  // 0: disowned
  std::unique_ptr<BlockQueue> device_;
  const UniqueFd wake_fd_;  // eventfd: a request of ours was completed by another thread
  ReadPath read_path_;
  uint32_t in_flight_ = 0;
  uint32_t joined_ = 0;  // reads in flight that wait for another queue's fill
  uint32_t waiting_for_space_ = 0;
  QueueCounters counters_;
  const std::unique_ptr<PendingRequest[]> all_pending_;
  const std::unique_ptr<Fill[]> all_fills_;
  PendingRequest* free_pending_ = nullptr;
  PendingRequest *parked_ = nullptr, *last_parked_ = nullptr;  // reads, in order of arrival
  uint32_t parked_count_ = 0;
  bool has_ready_fd_ = false;

  Mutex done_mu_;
  // In order of completion.
  PendingRequest *done_ GUARDED_BY(done_mu_) = nullptr, *last_done_ GUARDED_BY(done_mu_) = nullptr;
  Fill* free_fills_ GUARDED_BY(done_mu_) = nullptr;
  bool wants_fill_ GUARDED_BY(done_mu_) = false;  // who waits has reads parked
  bool waiting_ GUARDED_BY(done_mu_) = false;
  std::unique_ptr<ReadyFd> ready_ GUARDED_BY(done_mu_);
};

template <typename Visit>
void QueueSet::each_counters(Visit visit) {
  MutexLock lock(mu_);
  visit(gone_);
  for (Queue* queue : queues_) visit(queue->counters());
}

}  // namespace pcache
