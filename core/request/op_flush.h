// SPDX-License-Identifier: GPL-2.0-or-later
// FLUSH: all that has completed before becomes durable in pmem. It covers what is complete and so
// waits for no write; where the log has no room for the open ksets it waits in Deferred.
#pragma once

#include "request/queue_state.h"

namespace pcache {

int submit_flush(QueueState& queue, pcache_request* request);
int resume_flush(PendingRequest& pending);

// 0 or a negative errno; -ENOSPC: the log has no room now. Also what FUA and PREFLUSH do.
int flush(RequestState& cache);

}  // namespace pcache
