// SPDX-License-Identifier: GPL-2.0-or-later
// QueueSet: the queues of a cache, for helping each other. A reader that waits for another queue's
// fill polls all of them.
// Locks: mu_ is taken with nothing else held.
#pragma once

#include <vector>

#include "base/mutex.h"
#include "blockdev/unique_fd.h"
#include "request/queue_state.h"

namespace pcache {

class QueueSet {
 public:
  Status add(QueueState* queue) EXCLUDES(mu_);
  // Its counters stay.
  void remove(QueueState* queue) EXCLUDES(mu_);
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
  std::vector<QueueState*> queues_ GUARDED_BY(mu_);
  QueueCounters gone_ GUARDED_BY(mu_);
};

template <typename Visit>
void QueueSet::each_counters(Visit visit) {
  MutexLock lock(mu_);
  visit(gone_);
  for (const QueueState* queue : queues_) visit(queue->counters);
}

}  // namespace pcache
