// SPDX-License-Identifier: GPL-2.0-or-later
// Searching a cache for its log when the tails are lost, or when the log cannot be followed on.
//
// A log segment begins with a kset, and all but the last lead to the next by a LAST kset. Segments
// that the log has left and that were not used again look the same, and lead to those in use: of
// them, what has a dead key and all before it is left out, since behind key_tail no key is dead
// (but for some that a crash of reclaim leaves, and those are clean).
#pragma once

#include <vector>

#include "segment/segment_table.h"

namespace pcache {

// Where to begin walking, in log order: each place leads on over LAST ksets up to damage or to the
// log's end, which comes last. Segments that `use` knows as log or data are left out, and what
// leads into them as well: it is older. Reads only.
std::vector<CachePos> search_log(const Pmem& pmem, const SegmentTable& segments,
                                 const std::vector<SegmentUse>& use);

}  // namespace pcache
