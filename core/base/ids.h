// SPDX-License-Identifier: GPL-2.0-or-later
// Strong types for what the code addresses, so that a segment id is never taken for an offset.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace pcache {

inline constexpr uint32_t kSectorBytes = 512;
inline constexpr uint32_t kPageBytes = 4096;
// Keys never cross a multiple of this on the backing device; the index is sharded by it.
inline constexpr uint32_t kRangeBytes = 4u << 20;

// A cache segment: its position in the chain that starts at cache_info.seg_id.
struct SegId {
  uint32_t v = 0;
  auto operator<=>(const SegId&) const = default;
};

// Byte offset on the cache device (the mapped pmem).
struct MediaOff {
  uint64_t v = 0;
  auto operator<=>(const MediaOff&) const = default;
};
inline MediaOff operator+(MediaOff a, uint64_t n) { return MediaOff{a.v + n}; }

// A place in the data area of a cache segment; `off` counts from the data area's start, in bytes.
struct CachePos {
  SegId seg;
  uint32_t off = 0;
  auto operator<=>(const CachePos&) const = default;
};
inline CachePos operator+(CachePos p, uint32_t n) { return CachePos{p.seg, p.off + n}; }

// A range of the logical (backing) device, in bytes.
struct Extent {
  uint64_t off = 0;
  uint64_t len = 0;
  uint64_t end() const { return off + len; }
  bool operator==(const Extent&) const = default;
};

inline uint64_t range_of(uint64_t logical_off) { return logical_off / kRangeBytes; }

// The number of a range's stripe, before it is taken modulo the number of stripes. The ranges of
// 128 MiB go to 8 stripes in turn, so that threads in the same region rarely meet in one. The next
// 128 MiB have other stripes, so that threads with regions of their own do not meet at all.
inline uint64_t stripe_number(uint64_t range) {
  constexpr uint64_t kStripesOfRegion = 8, kRangesOfRegion = (128 << 20) / kRangeBytes;
  return range / kRangesOfRegion * kStripesOfRegion + range % kStripesOfRegion;
}

}  // namespace pcache
