// SPDX-License-Identifier: GPL-2.0-or-later
// GhostList: which pages a cache has lately missed. It knows hashes only, no data (the ghosts of
// ARC and 2Q). The time between two misses of a page, counted in misses, is its reuse distance.
//
// A table of buckets of 8 slots; a slot is a tag of the page's hash and the time of its last miss.
// A bucket that is full forgets its oldest page. There are two slots for each miss of `reach`, so
// that happens too early to one page in 20, shortly before its time. One page in 8000 is taken for
// another one.
// 8 bytes for each miss of `reach`.
//
// Any thread, without a lock: two threads that change one slot at once may lose a page.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace pcache::policy {

class GhostList {
 public:
  // Remembers pages for `reach` misses, at least 1. Throws std::bad_alloc.
  explicit GhostList(uint64_t reach);

  // The page with this hash is missed now, as the `now`-th miss. True: its last miss was at most
  // `reach` misses ago.
  bool missed(uint64_t hash, uint64_t now);

 private:
  static constexpr uint64_t kSlots = 8;
  struct alignas(32) Bucket {
    std::atomic<uint32_t> slots[kSlots] = {};
  };

  uint16_t time_of(uint64_t now) const { return static_cast<uint16_t>(now / misses_per_tick_); }

  const uint64_t misses_per_tick_;
  const uint16_t reach_ticks_;
  const uint64_t buckets_;
  const std::unique_ptr<Bucket[]> table_;
};

}  // namespace pcache::policy
