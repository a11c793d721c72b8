// SPDX-License-Identifier: GPL-2.0-or-later
// Shrinking a formatted cache to its first segments, with all that it holds.
//
// What it stores, and what a crash leaves. First persist_frame(). 1 and the first half of 2 are in
// any order; then each is durable before the next:
//   1. both tails, once more               the old cache
//   2. cache_info's n_segs, twice          the new cache on a larger device
//   3. the superblock's seg_num            the new cache
// The next try does all again, as in grow.h. 1 and 2: the older replica of a tail names an earlier
// place, from where the log may lead through the segments that go, and the older cache_info counts
// these; if the newer one is damaged, it serves.
// 3 is one 8-byte word, as in grow.h. The last segment keeps its link: the chain ends after n_segs,
// here and for the kernel target.
#pragma once

#include <functional>

#include "segment/format_device.h"

namespace pcache {

// Shrinks to the segments below `seg_num`, fewer than frame.seg_num has. The caller knows that no
// kset from key_tail on lies in, leads to or names, by a key that is live or dead, one of the
// others. It may have fewer, after a crash. `frame` is from load_frame() and becomes the new one.
// `sync` is called where a fence is not enough (a plain file). EINVAL: the chain is in another
// order, so the first segments are not those in front. One thread.
Status shrink_cache(Pmem& pmem, DeviceFrame& frame, uint32_t seg_num,
                    const std::function<Status()>& sync = nullptr);

}  // namespace pcache
