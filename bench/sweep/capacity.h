// SPDX-License-Identifier: GPL-2.0-or-later
// How much data a cache of a size keeps. It is less than the size: garbage collection begins when
// gc_percent of the segments are in use, and of these one is the log's, one is being filled, and
// one is being emptied (core/format/FORMAT.md, core/segment/space_policy.h).
#pragma once

#include <cstdint>
#include <optional>

namespace pcache::sweep {

// Below the least the backing device is not hurried; above the most the throttle comes first. What
// is kept is not known then.
inline constexpr int kLeastGcPercent = 50, kMostGcPercent = 70;

// Nothing: not known.
std::optional<uint64_t> capacity_of(uint64_t cache_bytes, int gc_percent);
// The size of the cache device whose capacity comes closest to this.
uint64_t cache_bytes_for(uint64_t capacity_bytes, int gc_percent);

}  // namespace pcache::sweep
