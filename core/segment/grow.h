// SPDX-License-Identifier: GPL-2.0-or-later
// Growing a formatted cache, dirty data and all, by segments behind its last one.
//
// What it stores, and what a crash leaves of it. 1 to 3 in any order, all durable before 4:
//   1. the heads of the new segments, chained    not reachable: the old cache
//   2. the superblock's seg_num                  the old cache on a larger device
//   3. the link from the last old segment        the same: its chain ends after n_segs
//   4. cache_info's n_segs                       the new cache
// 1 is done again by the next try. 2 is one 8-byte word, see with_segments(): of the superblock
// there is one copy, and its crc and seg_num are two words, so that the plain way could leave a
// torn one. 3 and 4 go to the replica that does not serve.
#pragma once

#include <functional>

#include "segment/format_device.h"

namespace pcache {

// To all segments below `seg_num`, at least frame.seg_num and no more than the device holds; some
// may be missing in the chain, after a crash or as they were made. `frame`: of load_frame(); it is
// the new one on return. `sync`: where a fence is not enough (a plain file). Its errors; one
// thread.
Status grow_cache(Pmem& pmem, DeviceFrame& frame, uint32_t seg_num,
                  const std::function<Status()>& sync = nullptr);

}  // namespace pcache
