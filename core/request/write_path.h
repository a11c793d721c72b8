// SPDX-License-Identifier: GPL-2.0-or-later
// The write path: data into places of a data head, then index and open kset. The data is fenced
// before that, unless its stripe leans to this thread; then with the kset, or when another thread
// comes (stripes.h).
//
// What a crash at each step leaves: until the kset that names it is committed, a write has not
// happened (the places belong to no key and are free at the next attach). Extents of one write
// become durable each for itself: a torn write leaves whole extents old or new.
#pragma once

#include "request/context.h"

namespace pcache {

// Stores the data of a write and enters it in the index, so that every later read sees it. Returns
// 0 or a negative errno; `done_bytes` grows by what was entered, in either case.
int write_data(RequestContext& ctx, DataHead& head, Extent todo, const std::byte* from,
               uint64_t* done_bytes);

// Runs a WRITE (with its PREFLUSH and FUA) or FLUSH that was checked, from where
// `progress` says. Returns 0 or a negative errno; then any part of the range may have been written.
// On return every later read sees what was written. Never blocks on the backing device.
// -ENOSPC: no segment is free; to be called again when one is, with the same `progress`. -EIO: the
// media is bad where the log goes on, or in all segments that there are.
int write_request(RequestContext& ctx, DataHead& head, const pcache_request& request,
                  WriteProgress* progress);

}  // namespace pcache
