// SPDX-License-Identifier: GPL-2.0-or-later
// Pace: while space is short, writes are let in at the rate at which writeback makes room, each a
// little later, instead of all at once and then none for as long as a batch takes.
//
// Off, a write costs one load. On, it takes its length from a credit that writeback grants as its
// writes complete; without credit it waits in Deferred. A write passes on any credit and may leave
// a debt, so that large ones are not starved.
//
// Whoever turns it on must see to it that credit is granted, or turn it off: requests wait for
// nothing else: see decide() in segment/space_policy.h. Any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "segment/space_policy.h"

namespace pcache {

class Pace {
 public:
  bool on() const { return on_.load(std::memory_order_relaxed); }
  void set(bool on) {
    if (on == on_.load(std::memory_order_relaxed)) return;
    credit_.store(0, std::memory_order_relaxed);
    on_.store(on, std::memory_order_relaxed);
  }
  // Whether a write of that length may go on now.
  bool take(uint64_t len_bytes) {
    if (!on()) [[likely]]
      return true;
    int64_t credit = credit_.load(std::memory_order_relaxed);
    while (credit > 0)
      if (credit_.compare_exchange_weak(credit, credit - static_cast<int64_t>(len_bytes),
                                        std::memory_order_relaxed))
        return true;
    return false;
  }
  void grant(uint64_t len_bytes) {
    if (!on()) return;
    int64_t credit = credit_.load(std::memory_order_relaxed);
    while (!credit_.compare_exchange_weak(
        credit, std::min(credit + static_cast<int64_t>(len_bytes), kMostCreditBytes),
        std::memory_order_relaxed)) {
    }
  }

 private:
  std::atomic<bool> on_{false};
  std::atomic<int64_t> credit_{0};
};

}  // namespace pcache
