// SPDX-License-Identifier: GPL-2.0-or-later
// The write path: data into places of a data head, fence, then index and open kset.
//
// What a crash at each step leaves: until the kset that names it is committed, a write has not
// happened (the places belong to no key and are free at the next attach). Extents of one write
// become durable each for itself: a torn write leaves whole extents old or new.
#pragma once

#include "request/context.h"

namespace pcache {

// Caches `len` bytes at `off`; both checked by the caller. On return every later read sees them.
// Returns 0 or a negative errno; then any part of the range may have been written. Never blocks on
// the backing device. -ENOSPC: no free segment.
int write_extents(RequestContext& ctx, DataHead& head, uint64_t off, uint64_t len, const void* buf);

}  // namespace pcache
