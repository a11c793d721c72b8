// SPDX-License-Identifier: GPL-2.0-or-later
// WRITE, with its PREFLUSH and FUA. What is one extent, and most are, is written at once and whole;
// anything else as many extents, which may come to wait in Deferred for space, with what is done
// already. Never waits for the backing device.
//
// What a crash at each step leaves: until the kset that names it is committed, a write has not
// happened (the places belong to no key and are free at the next attach). Extents of one write
// become durable each for itself: a torn write leaves whole extents old or new.
#pragma once

#include "request/queue_state.h"

namespace pcache {

int submit_write(QueueState& queue, pcache_request* request);
int resume_write(PendingRequest& pending);

}  // namespace pcache
