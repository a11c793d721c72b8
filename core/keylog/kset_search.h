// SPDX-License-Identifier: GPL-2.0-or-later
// Searches ksets that the log does not lead to: behind a place that cannot be read, or without
// tails. For tools that save what they can. Reads only; any thread.
#pragma once

#include <functional>
#include <optional>

#include "format/codec.h"
#include "segment/segment_table.h"

namespace pcache {

// Whether every key of the kset names data of a current generation: all ksets behind dirty_tail do,
// and those of a segment's earlier life seldom do.
bool all_keys_live(std::span<const media::Key> keys, const SegmentTable& segments);

// The first kset at or behind `from`, in its segment, that is valid and has live keys only (or
// leads to another segment of the cache). What is in between need not be readable.
std::optional<CachePos> find_kset(const Pmem& pmem, const SegmentTable& segments, CachePos from);

// For a log that ends at `end` in a header that is neither zeros nor torn, by us or by the kernel
// target. Calls `visit` for each kset with live keys behind it in that segment, until it returns
// false. Either the log was damaged at `end` and goes on, or all this is of an earlier life of the
// segment, as a crash of the kernel target may leave it (its header behind the last kset is not
// durable before that kset).
void each_kset_behind_garbage(
    const Pmem& pmem, const SegmentTable& segments, CachePos end,
    const std::function<bool(CachePos, std::span<const media::Key>)>& visit);

// The first of these ksets.
std::optional<CachePos> kset_behind_garbage(const Pmem& pmem, const SegmentTable& segments,
                                            CachePos end);

}  // namespace pcache
