// SPDX-License-Identifier: GPL-2.0-or-later
// Growing a formatted cache, dirty data and all, by segments behind its last one.
//
// What it stores, and what a crash leaves. First persist_frame(). 1 to 3 are in any order, all
// durable before 4:
//   1. the heads of the new segments, chained    not reachable: the old cache
//   2. the superblock's seg_num                  the old cache on a larger device
//   3. the link from the last old segment        the same: its chain ends after n_segs
//   4. cache_info's n_segs                       the new cache
// The next try does all again: what a killed process has stored can be seen, and need not be
// durable. 2 is one 8-byte word, see with_segments(): there is one copy of the
// superblock, and crc and seg_num are two words, so that to store both could leave a torn
// superblock. 3 and 4 go to the replica that does not serve.
#pragma once

#include <functional>

#include "segment/format_device.h"

namespace pcache {

// Grows to all segments below `seg_num`, at least frame.seg_num and no more than the device holds.
// The chain may have fewer, after a crash or as it was made. `frame` is from load_frame() and
// becomes the new one. `sync` is called where a fence is not enough (a plain file). One thread.
Status grow_cache(Pmem& pmem, DeviceFrame& frame, uint32_t seg_num,
                  const std::function<Status()>& sync = nullptr);

// Step 2, for shrink_cache(), too. Durable after the caller's next fence.
Status store_seg_num(Pmem& pmem, DeviceFrame& frame, uint32_t seg_num);

}  // namespace pcache
