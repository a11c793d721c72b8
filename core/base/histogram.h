// SPDX-License-Identifier: GPL-2.0-or-later
// Histogram: how long things took. Each power of two of nanoseconds has four buckets, so the upper
// end of a bucket is at most a quarter above a value in it.
//
// One thread adds; any thread may read meanwhile (counts may then miss the newest).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pcache {

class Histogram {
 public:
  static constexpr size_t kBuckets = 4 * 42;  // up to 146 minutes, and longer in the last one

  void add(uint64_t ns) {
    bump(counts_[bucket_of(ns)], 1);
    if (ns > max_ns_.load(std::memory_order_relaxed)) max_ns_.store(ns, std::memory_order_relaxed);
  }
  void merge(const Histogram& other);
  // Takes away what it had `before`. The longest of what is left is known by its bucket, unless it
  // is longer than all before.
  void subtract(const Histogram& before);

  uint64_t count() const;
  uint64_t count(size_t bucket) const { return counts_[bucket].load(std::memory_order_relaxed); }
  uint64_t max_ns() const { return max_ns_.load(std::memory_order_relaxed); }
  // The upper end of the bucket in which the value of this rank lies, `part` in 0..1; 0 when empty.
  uint64_t quantile_ns(double part) const;

  static size_t bucket_of(uint64_t ns);
  static uint64_t upper_ns(size_t bucket);  // the first value above the bucket

 private:
  static void bump(std::atomic<uint64_t>& counter, uint64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }

  std::array<std::atomic<uint64_t>, kBuckets> counts_{};
  std::atomic<uint64_t> max_ns_{0};
};

}  // namespace pcache
