// SPDX-License-Identifier: GPL-2.0-or-later
// QueueState: what an operation sees of the queue that its request came by. Belongs to the queue's
// thread but for `completions`, and for `cache`, `head`, `device` and `ahead.end()`, which take
// any.
#pragma once

#include <memory>
#include <utility>

#include "blockdev/block_device.h"
#include "policy/sequential_misses.h"
#include "request/completion_queue.h"
#include "request/counters.h"
#include "request/pending.h"
#include "request/read_ahead.h"
#include "request/state.h"

namespace pcache {

struct QueueState {
  QueueState(RequestState& cache, uint32_t depth, uint32_t fills,
             std::unique_ptr<BlockQueue> device, UniqueFd wake_fd)
      : ops(cache.parts().readonly ? kReadonlyOps : kOrdinaryOps),
        cache(cache),
        head(cache.next_head()),
        in_flight(depth, this),
        device(std::move(device)),
        completions(std::move(wake_fd), fills) {}

  // Of a request that is complete when submit() returns: its `result`, 0 or a negative errno.
  // `since_ns`: when it began, if it is timed, else 0. Returns what submit() does.
  int complete_at_once(pcache_request* request, int result, LatencyClass what, uint64_t since_ns) {
    request->result = result;
    if (result != 0)
      counters.errors.add_alone();
    else if (since_ns != 0)
      counters.note_latency(what, since_ns);
    return 1;
  }

  // Before the queue's thread goes away to wait for its ready fd, if it has one. What the kernel
  // has not taken for want of memory is pushed by reap() alone, so the fd is readable then, too.
  void settle_ready_fd() {
    if (all_rings_fd < 0) return;
    const bool pushed = device->kick();
    completions.settle_ready_fd({.all_rings_fd = all_rings_fd,
                                 .joined = in_flight.joined() > 0,
                                 .wants_fill = !parked_reads.empty(),
                                 .needs_polling = !pushed});
  }

  const Op* ops;  // a table's rows
  RequestState& cache;
  DataHead& head;
  InFlightTable in_flight;
  const std::unique_ptr<BlockQueue> device;
  policy::SequentialMisses sequential_misses;
  ReadAhead ahead{this};
  PendingList parked_reads;  // until a fill is free; in order of arrival
  int all_rings_fd = -1;     // QueueSet::fd(), from when there is a ready fd
  QueueCounters counters;
  CompletionQueue completions;
};

}  // namespace pcache
