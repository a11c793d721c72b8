// SPDX-License-Identifier: GPL-2.0-or-later
// Searches a cache for its log when the tails are lost, or when the log cannot be followed further.
//
// A log segment begins with a kset, and all but the last lead to the next one by a LAST kset.
// Segments that the log has left, and that were not used again, look the same and lead to those in
// use. A kset in them with a dead key, and all ksets before it, are left out: behind key_tail no
// key is dead (but for some that a crash of reclaim leaves, and those are clean).
#pragma once

#include <vector>

#include "segment/segment_table.h"

namespace pcache {

// The places where to begin, in log order: each leads on over LAST ksets to damage or to the log's
// end, which comes last. Leaves out the segments that `use` knows as log or data, and segments that
// lead to them, which are older. Reads only.
std::vector<CachePos> search_log(const Pmem& pmem, const SegmentTable& segments,
                                 const std::vector<SegmentUse>& use);

}  // namespace pcache
