// SPDX-License-Identifier: GPL-2.0-or-later
// WRITE, DISCARD and WRITE_ZEROES, with their PREFLUSH and FUA. A write of one extent, as most are,
// is stored and entered at once. A longer write is cut into extents. Where space runs out, the
// write waits in Deferred and keeps its progress. No write waits for the backing device.
//
// What a crash at each step leaves: until the kset that names it is committed, a write has not
// happened (the places belong to no key and are free at the next attach). Extents of one write
// become durable each for itself: a torn write leaves whole extents old or new.
#pragma once

#include "request/queue_state.h"

namespace pcache {

// Of all three. Of zeros the first part is written at once, of what is longer the rest waits.
int submit_write(QueueState& queue, pcache_request* request);
int submit_zeros(QueueState& queue, pcache_request* request);
int resume_write(PendingRequest& pending);

}  // namespace pcache
