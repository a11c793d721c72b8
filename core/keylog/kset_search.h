// SPDX-License-Identifier: GPL-2.0-or-later
// Looking for ksets where the log cannot be followed to them: behind a place that cannot be read,
// or without tails. For tools that take what can be had. Reads only; any thread.
#pragma once

#include <functional>
#include <optional>

#include "format/codec.h"
#include "segment/segment_table.h"

namespace pcache {

// Whether every key of the kset names data of a generation that is not gone: behind dirty_tail that
// is so of each, and seldom of what an earlier life of the segment has left.
bool all_keys_live(std::span<const media::Key> keys, const SegmentTable& segments);

// The first kset at or behind `from`, in its segment, that is valid and all of whose keys are live
// (or that leads to another segment of the cache). Nothing in between is required to be readable.
std::optional<CachePos> find_kset(const Pmem& pmem, const SegmentTable& segments, CachePos from);

// Of a log that ends at `end` in something other than zeros: calls `visit` for each kset with live
// keys that stands further on in that segment, until it returns false, if what stands at `end` is
// not a torn header, neither ours nor the kernel target's. Then the log was damaged there and goes
// on - or `end` and the rest are left from an earlier life of the segment, as a crash of the kernel
// target may leave them (its header behind the last kset is not durable before that kset).
void each_kset_behind_garbage(
    const Pmem& pmem, const SegmentTable& segments, CachePos end,
    const std::function<bool(CachePos, std::span<const media::Key>)>& visit);

// The first of them.
std::optional<CachePos> kset_behind_garbage(const Pmem& pmem, const SegmentTable& segments,
                                            CachePos end);

}  // namespace pcache
