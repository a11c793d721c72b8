// SPDX-License-Identifier: GPL-2.0-or-later
// Fill: from the device read of a gap to its CLEAN keys. See read_path.h for the rules.
#pragma once

#include "request/read_path.h"

namespace pcache {

// Reads fill->extent into fill->dst; completion caches it and finishes the reads that wait for it.
void start_fill(RequestContext& ctx, Queue& queue, Fill* fill);

// One part of a pending read is there (or has failed, positive errno); the last part completes it.
void finish_part(PendingRequest* read, int error);

}  // namespace pcache
