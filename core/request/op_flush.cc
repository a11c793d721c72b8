// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/op_flush.h"

namespace pcache {

int flush(RequestState& cache) {
  if (const Status flushed = cache.parts().stripes.flush(); !flushed) return -flushed.error().code;
  return -cache.take_lost();
}

int submit_flush(QueueState& queue, pcache_request* request) {
  const uint64_t since_ns = is_timed(queue.counters.flushes) ? now_ns() : 0;
  const int result = flush(queue.cache);
  const bool waits = result == -ENOSPC;
  if (waits && queue.in_flight.full()) return -EAGAIN;  // it can be done again
  queue.counters.flushes.add_alone();
  if (waits) return queue.cache.deferred().add(queue, request, {.admitted = true});
  return queue.complete_at_once(request, result, LatencyClass::kFlush, since_ns);
}

int resume_flush(PendingRequest& pending) { return flush(pending.queue->cache); }

}  // namespace pcache
