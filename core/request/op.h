// SPDX-License-Identifier: GPL-2.0-or-later
// Op: what a queue has to know of an operation. Each table has a row for each pcache_op, in the
// order of their numbers. An operation has a file of its own, op_*.cc.
#pragma once

#include <cstdint>

#include "pcache.h"
#include "request/counters.h"

namespace pcache {

struct PendingRequest;
struct QueueState;

struct Op {
  // Runs a valid request as far as it comes at once. Returns what pcache_submit() does: 1, it is
  // complete and has its result; 0, it is in flight, and its completion comes by the queue's
  // CompletionQueue; -EAGAIN, it was not taken, and nothing has changed.
  int (*submit)(QueueState& queue, pcache_request* request);
  // Goes on with one that waits in Deferred, in any thread. Returns 0 or a negative errno; -ENOSPC:
  // there is still no space; -EBUSY: too little is written back; -EAGAIN: call it again;
  // -EINPROGRESS: it waits in DeviceAcks from now on. nullptr: this one never waits there.
  int (*resume)(PendingRequest& pending);
  bool has_range;        // off and len say where
  bool has_buffer;       // buf says what
  bool needs_slot;       // a queue that is full does not take it
  LatencyClass latency;  // of one that was in flight
};

inline constexpr uint32_t kOpCount = PCACHE_OP_WRITE_ZEROES + 1;
using OpTable = Op[kOpCount];

extern const OpTable kOrdinaryOps;
extern const OpTable kReadonlyOps;  // a write is refused, a flush has nothing to do
extern const OpTable kForeignOps;   // of a forked child: each is refused

}  // namespace pcache
