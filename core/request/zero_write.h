// SPDX-License-Identifier: GPL-2.0-or-later
// Writes zeros of any length, and stores a few of them: the keys of a part of the range all name
// one place, and each holds a reference to its segment.
//
// Invariants
// - A place serves one call: an earlier key of a sector that named the place of a later one would
//   let reclaim, and writeback, take the later one's entry in the index for its own.
// - What is zeros and not on the backing device yet takes DRAM for the index, as dirty data does:
//   of both there is no more than twice the cache's size, and what a call may add.
#pragma once

#include "parts/stored_extent.h"

namespace pcache {

// What of a range of so many bytes one key names, at most: 64 KiB for all up to 64 MiB, so that
// little is stored, then a 1024th of it, so that keys are few. With data_crc a read of a part of an
// extent checks all of it.
uint32_t zero_extent_bytes(const Parts& parts, uint64_t len_bytes);

// Writes a part of `todo` from its front, under keys with these flags, kKeyZeros among them: every
// later read sees it. 0 or a negative errno (-ENOSPC: there is no space now; -EBUSY: too much
// is dirty now; -EIO: there never will be space), with what is done added to `done_bytes` in any
// case.
int write_zeros(const Parts& parts, DataHead& head, Extent todo, uint32_t key_flags,
                uint64_t* done_bytes);

}  // namespace pcache
