// SPDX-License-Identifier: GPL-2.0-or-later
// READ: hits are copied at once in the caller's thread; each gap becomes one Fill, or joins the one
// that fetches it (fill.h).
//
// Nothing here takes memory. A queue has so many fills from its start; a read that needs one more
// is parked in the queue, and goes on when one of them has come back. Each of them is on its way:
// at the device, or joined to one that is.
#pragma once

#include "request/queue_state.h"

namespace pcache {

int submit_read(QueueState& queue, pcache_request* request);

// With the reads that are parked, as far as there are fills.
void resume_parked_reads(QueueState& queue);
// What they have begun still comes; then they end with ECANCELED.
void cancel_parked_reads(QueueState& queue);

}  // namespace pcache
