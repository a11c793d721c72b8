// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/range_set.h"

#include <algorithm>
#include <iterator>

namespace pcache {

void RangeSet::add(const Extent& extent) {
  if (extent.len == 0) return;
  uint64_t first = extent.off, end = extent.end();
  auto at = ranges_.upper_bound(first);
  if (at != ranges_.begin() && std::prev(at)->second >= first) --at;
  while (at != ranges_.end() && at->first <= end) {
    first = std::min(first, at->first);
    end = std::max(end, at->second);
    at = ranges_.erase(at);
  }
  ranges_.emplace_hint(at, first, end);
}

void RangeSet::remove(const Extent& extent) {
  if (extent.len == 0) return;
  auto at = ranges_.upper_bound(extent.off);
  if (at != ranges_.begin() && std::prev(at)->second > extent.off) --at;
  while (at != ranges_.end() && at->first < extent.end()) {
    const auto [first, end] = *at;
    at = ranges_.erase(at);
    if (first < extent.off) ranges_.emplace_hint(at, first, extent.off);
    if (end > extent.end()) ranges_.emplace_hint(at, extent.end(), end);
  }
}

uint64_t RangeSet::bytes() const {
  uint64_t sum = 0;
  for (const auto& [first, end] : ranges_) sum += end - first;
  return sum;
}

}  // namespace pcache
