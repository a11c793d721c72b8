// SPDX-License-Identifier: GPL-2.0-or-later
// Writes zeros of any length, and stores a few of them: the keys of a part of the range all name
// one place, and each holds a reference to its segment.
//
// Invariants
// - A place serves one call: an earlier key of a sector that named the place of a later one would
//   let reclaim, and writeback, take the later one's entry in the index for its own.
// - What zeros name that dirty_tail has not passed is bounded: see ZeroBacklog.
#pragma once

#include "parts/stored_extent.h"

namespace pcache {

// Of one call: its keys are appended in some milliseconds.
inline constexpr uint64_t kMostZeroPartBytes = 1 << 30;

// What of a part of so many bytes one key names, at most: 64 KiB for all up to 64 MiB, so that
// little is stored, then a 1024th of it, so that keys are few. So much is stored.
uint32_t zero_extent_bytes(uint64_t part_bytes);

// Writes a part of `todo` from its front, kMostZeroPartBytes at most, under keys with these flags,
// kKeyZeros among them: every later read sees it. 0 or a negative errno (-ENOSPC: there is no space
// now; -EBUSY: too much waits for the backing device now; -EIO: there never will be space), with
// what is done added to `done_bytes` in any case.
int write_zeros(const Parts& parts, DataHead& head, Extent todo, uint32_t key_flags,
                uint64_t* done_bytes);

}  // namespace pcache
