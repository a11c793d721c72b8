// SPDX-License-Identifier: GPL-2.0-or-later
// Queue: one thread's way into the cache, with its own ring to the backing device. It checks and
// admits requests, hands each to its operation (op.h), and gives back what has completed.
//
// Invariants
// - submit(), reap() and the destructor are called by one thread at a time.
// - The way down is submit(), the operation, and the modules below; the way up is a completion by
//   the device or by who makes space, CompletionQueue, and reap(). Nothing below calls a Queue.
// - A request that is complete when submit() returns never comes out of reap().
// - A read that joined another queue's fill does not depend on that queue's thread: while it waits,
//   its own thread polls all queues' rings (help).
// - A write or flush that waits for space is in Deferred; cancel() and the destructor give it up. A
//   write that waits for the backing device is in DeviceAcks; the destructor gives it up.
// - All memory that its requests need on their way is there from create() on: a PendingRequest for
//   each of `depth`, and fills_for(depth) fills. Between submit() and reap() nothing is allocated,
//   so what has begun ends, and what it holds comes back, however short memory is. (A buffer for
//   what is read ahead is, and where there is none nothing is.)
// - A read that finds no fill free is parked; reap() and submit() go on with it. When the queue is
//   destroyed it ends with ECANCELED.
#pragma once

#include <algorithm>
#include <memory>
#include <span>

#include "request/queue_set.h"
#include "request/queue_state.h"

namespace pcache {

class Queue {
 public:
  // How many fills a queue has: enough to keep its ring full, and more than most reads have gaps.
  static uint32_t fills_for(uint32_t depth) { return std::clamp(2 * depth, 64u, 1u << 14); }

  static Result<std::unique_ptr<Queue>> create(RequestState& cache, QueueSet& set, uint32_t depth);
  ~Queue();

  int submit(pcache_request* request);
  // As pcache_submit_batch(): submit() of each, in order, until one is not taken: how many are, or,
  // of none, what it has returned. Those that are complete go to `done`, `done_count` of them.
  int submit_batch(std::span<pcache_request* const> requests, pcache_request** done,
                   uint32_t* done_count);
  int reap(pcache_request** done, uint32_t min, uint32_t max, int64_t timeout_ns);
  // Gives up what waits for space: it comes out of reap() with -ECANCELED. How many. Any thread.
  uint32_t cancel() { return state_.cache.deferred().cancel(state_); }
  // Readable while reap() has something to do; made when it is first asked for. From the queue's
  // thread.
  Result<int> ready_fd();
  // From now on submit() refuses each valid request with -EPERM. The table of operations does it,
  // so a plain request pays nothing.
  void disown() { state_.ops = kForeignOps; }
  uint32_t in_flight() const { return state_.in_flight.count(); }
  const QueueCounters& counters() const { return state_.counters; }

  // For tests.
  uint32_t free_fills() { return state_.completions.free_fills(); }
  uint32_t parked() const;

 private:
  Queue(RequestState& cache, QueueSet& set, uint32_t depth, std::unique_ptr<BlockQueue> device,
        UniqueFd wake_fd);
  [[gnu::always_inline]] int check(const pcache_request& request) const;
  [[gnu::always_inline]] static int check_range(const pcache_request& request, const Parts& parts,
                                                uint64_t end);
  uint32_t take_done(pcache_request** done, uint32_t max);
  void resume_reads();
  void poll_rings();
  void wait(int64_t timeout_ns);
  void wait_for_wake(int64_t timeout_ns);

  QueueState state_;
  QueueSet& set_;
};

}  // namespace pcache
