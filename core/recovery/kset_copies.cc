// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/kset_copies.h"

#include <algorithm>
#include <array>
#include <new>
#include <utility>

namespace pcache {

namespace {

constexpr unsigned kDigitBits = 12, kDigits = 2;
constexpr uint64_t kSorted = (uint64_t{1} << kDigitBits * kDigits) - 1;

}  // namespace

uint64_t KsetCopies::print_of(uint32_t crc, std::span<const media::Key> keys) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // multiplication with it spreads bits
  const uint64_t place =
      keys.empty() ? 0 : uint64_t{keys[0].cache_seg_id} << 32 | keys[0].cache_seg_off;
  return uint64_t{crc} << 32 | ((place * kOdd + keys.size()) * kOdd) >> 32;
}

void KsetCopies::add(uint32_t crc, std::span<const media::Key> keys) try {
  if (!off_) prints_.push_back(print_of(crc, keys));
} catch (const std::bad_alloc&) {
  off_ = true;  // the attach goes on without
  prints_ = {};
}

// Sorts by some of the bits alone, so that equal prints are together with few others: to sort them
// whole would take a good part of the time for the replay of ksets of one key.
void KsetCopies::sort_roughly() {
  std::vector<uint64_t> other(prints_.size());
  for (unsigned digit = 0; digit < kDigits; digit++) {
    const auto bucket = [&](uint64_t print) {
      return print >> digit * kDigitBits & ((1 << kDigitBits) - 1);
    };
    std::array<size_t, 1 << kDigitBits> begin{};
    for (const uint64_t print : prints_) begin[bucket(print)]++;
    size_t before = 0;
    for (size_t& at : begin) before += std::exchange(at, before);
    PCACHE_DCHECK(before == prints_.size());
    for (const uint64_t print : prints_) other[begin[bucket(print)]++] = print;
    prints_.swap(other);
  }
}

std::vector<uint64_t> KsetCopies::repeated() try {
  std::vector<uint64_t> found;
  sort_roughly();
  for (size_t i = 0, end = 0; i < prints_.size(); i = end) {
    for (end = i + 1; end < prints_.size() && (prints_[end] & kSorted) == (prints_[i] & kSorted);
         end++)
      ;
    if (end - i == 1) continue;
    const auto first = prints_.begin() + static_cast<std::ptrdiff_t>(i);
    const auto last = prints_.begin() + static_cast<std::ptrdiff_t>(end);
    std::sort(first, last);
    for (auto at = first; (at = std::adjacent_find(at, last)) != last;) {
      found.push_back(*at);
      at = std::upper_bound(at, last, *at);
    }
  }
  std::sort(found.begin(), found.end());
  prints_ = {};
  return found;
} catch (const std::bad_alloc&) {
  return {};
}

}  // namespace pcache
