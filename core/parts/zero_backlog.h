// SPDX-License-Identifier: GPL-2.0-or-later
// ZeroBacklog: how much the zeros name that are in the log and that dirty_tail has not passed. They
// take next to no space, so space does not bound them; without a bound the backing device could
// have hours of them before what a writer waits for. Any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace pcache {

class ZeroBacklog {
 public:
  // `most_bytes`: what there may be. `found_bytes`: what an attach has found.
  explicit ZeroBacklog(uint64_t most_bytes, uint64_t found_bytes = 0)
      : most_(most_bytes), bytes_(found_bytes) {}

  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  uint64_t most_bytes() const { return most_.load(std::memory_order_relaxed); }
  void set_most(uint64_t bytes) { most_.store(bytes, std::memory_order_relaxed); }
  // Takes up to `wanted_bytes`, in whole `unit_bytes`; 0: there is room for less than
  // `least_bytes`.
  uint64_t take(uint64_t wanted_bytes, uint64_t least_bytes, uint64_t unit_bytes) {
    const uint64_t most = most_bytes();
    uint64_t now = bytes_.load(std::memory_order_relaxed), taken = 0;
    do {
      taken = std::min(wanted_bytes, most - std::min(most, now));
      taken -= taken % unit_bytes;
      if (taken < std::min(wanted_bytes, least_bytes)) return 0;
    } while (!bytes_.compare_exchange_weak(now, now + taken, std::memory_order_relaxed));
    return taken;
  }
  // They were not written after all, or dirty_tail has passed them.
  void give_back(uint64_t n) {
    uint64_t now = bytes_.load(std::memory_order_relaxed);
    while (!bytes_.compare_exchange_weak(now, now - std::min(now, n), std::memory_order_relaxed)) {
    }
  }

 private:
  std::atomic<uint64_t> most_;
  std::atomic<uint64_t> bytes_;
};

}  // namespace pcache
