// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/capacity.h"

#include <algorithm>

namespace pcache::sweep {

namespace {

constexpr uint64_t kSegmentBytes = 16 << 20, kDataBytes = kSegmentBytes - (12 << 10);
constexpr uint64_t kFrameBytes = 20 << 10;
constexpr uint64_t kLeastSegments = 31;  // of the smallest device, 512 MiB
constexpr uint64_t kNotData = 3;         // of those in use: log, being filled, being emptied

uint64_t size_with(uint64_t segments) { return (segments + 1) * kSegmentBytes; }

}  // namespace

std::optional<uint64_t> capacity_of(uint64_t cache_bytes, int gc_percent) {
  if (gc_percent < kLeastGcPercent || gc_percent > kMostGcPercent) return std::nullopt;
  const uint64_t segments = (cache_bytes - kFrameBytes) / kSegmentBytes;
  return (segments * static_cast<uint64_t>(gc_percent) / 100 - kNotData) * kDataBytes;
}

uint64_t cache_bytes_for(uint64_t capacity_bytes, int gc_percent) {
  const uint64_t in_use = (capacity_bytes + kDataBytes / 2) / kDataBytes + kNotData;
  const auto percent = static_cast<uint64_t>(gc_percent);
  return size_with(std::max(kLeastSegments, (in_use * 100 + percent - 1) / percent));
}

}  // namespace pcache::sweep
