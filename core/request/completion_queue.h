// SPDX-License-Identifier: GPL-2.0-or-later
// CompletionQueue: what comes back to a queue, from whichever thread: completed requests, in the
// order of their completion, and fills that are free again. It wakes the queue's thread, which
// waits in reap() or, by the ready fd, in an event loop.
//
// Invariants
// - A request completes here, once, and nowhere else; from then on reap() may take it.
// - All fills there are were made with it. Nothing here allocates.
// Locks: mu_ is a leaf.
#pragma once

#include <memory>

#include "base/mutex.h"
#include "blockdev/unique_fd.h"
#include "request/fill.h"
#include "request/pending.h"
#include "request/ready_fd.h"

namespace pcache {

class CompletionQueue {
 public:
  // `wake_fd`: an eventfd.
  CompletionQueue(UniqueFd wake_fd, uint32_t fills);

  // Any thread. `error`: a positive errno, or 0; the first one of a request counts.
  void complete(PendingRequest* pending, int error = 0) EXCLUDES(mu_);
  // One part of a read is there, or has failed; the last one completes it.
  void finish_part(PendingRequest* read, int error) EXCLUDES(mu_);
  void return_fill(Fill* fill) EXCLUDES(mu_);

  // The queue's thread. nullptr: all are on their way.
  Fill* take_fill() EXCLUDES(mu_);
  // The first ones, `max` at most.
  PendingList take(uint32_t max) EXCLUDES(mu_);
  int wake_fd() const { return wake_fd_.get(); }
  // Before waiting for wake_fd: false, there is something already. `for_fill`: a fill that comes
  // back wakes, too.
  bool begin_wait(bool for_fill) EXCLUDES(mu_);
  void end_wait() EXCLUDES(mu_);

  // The ready fd, made over the queue's ring when it is first asked for. The queue's thread.
  Result<int> ready_fd(int ring_fd) EXCLUDES(mu_);
  struct Unready {
    int all_rings_fd;    // of all queues
    bool joined;         // a request waits for another queue's fill
    bool wants_fill;     // reads are parked
    bool needs_polling;  // nothing but reap() would bring the queue further
  };
  // Raises or lowers the ready fd, which there is. The queue's thread, before it goes away to wait.
  void settle_ready_fd(const Unready& unready) EXCLUDES(mu_);
  // For tests.
  uint32_t free_fills() EXCLUDES(mu_);

 private:
  void wake() REQUIRES(mu_);

  const UniqueFd wake_fd_;
  const std::unique_ptr<Fill[]> all_fills_;
  Mutex mu_;
  PendingList done_ GUARDED_BY(mu_);
  Fill* free_fills_ GUARDED_BY(mu_) = nullptr;
  bool waiting_ GUARDED_BY(mu_) = false;
  bool wants_fill_ GUARDED_BY(mu_) = false;  // who waits
  std::unique_ptr<ReadyFd> ready_ GUARDED_BY(mu_);
};

}  // namespace pcache
