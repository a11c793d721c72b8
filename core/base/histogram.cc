// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace pcache {

// Values 0..3 have a bucket each; from 4 on the two bits below the highest one choose the bucket.
size_t Histogram::bucket_of(uint64_t ns) {
  if (ns < 4) return ns;
  const unsigned power = static_cast<unsigned>(std::bit_width(ns)) - 1;
  return std::min<size_t>(4 * (power - 1) + (ns >> (power - 2) & 3), kBuckets - 1);
}

uint64_t Histogram::upper_ns(size_t bucket) {
  if (bucket < 4) return bucket + 1;
  const unsigned power = static_cast<unsigned>(bucket / 4) + 1;
  return (uint64_t{4} + bucket % 4 + 1) << (power - 2);
}

void Histogram::merge(const Histogram& other) {
  for (size_t i = 0; i < kBuckets; i++) bump(counts_[i], other.count(i));
  max_ns_.store(std::max(max_ns(), other.max_ns()), std::memory_order_relaxed);
}

void Histogram::subtract(const Histogram& before) {
  size_t last = 0;
  for (size_t i = 0; i < kBuckets; i++) {
    const uint64_t n = count(i);
    counts_[i].store(n - std::min(n, before.count(i)), std::memory_order_relaxed);
    if (count(i) > 0) last = i;
  }
  if (max_ns() > before.max_ns()) return;
  const uint64_t most = count(last) > 0 ? upper_ns(last) - 1 : 0;
  max_ns_.store(std::min(max_ns(), most), std::memory_order_relaxed);
}

uint64_t Histogram::count() const {
  uint64_t n = 0;
  for (size_t i = 0; i < kBuckets; i++) n += count(i);
  return n;
}

uint64_t Histogram::quantile_ns(double part) const {
  const uint64_t all = count();
  const auto rank = static_cast<uint64_t>(std::ceil(part * static_cast<double>(all)));
  uint64_t seen = 0;
  for (size_t i = 0; i < kBuckets; i++) {
    seen += count(i);
    if (seen > 0 && seen >= rank) return std::min(upper_ns(i) - 1, max_ns());
  }
  return 0;
}

}  // namespace pcache
