// SPDX-License-Identifier: GPL-2.0-or-later
// Keeper: what stays of what comes to the tail of a cache that is one log. One of four rules holds,
// and answers two questions: whether what a read has missed is appended to the log (admission.h),
// and whether what comes to the log's tail is appended once more (reinsertion) or given up.
//
//   kFifo          admits all; nothing stays
//   kSecondChance  admits all; what was hit stays (CLOCK, Corbato 1968). About as good as LRU.
//   kBimodal       admits one miss in 64 by chance; what was hit stays. Of a loop greater than the
//                  cache, a part stays in the cache (BIP: Qureshi et al., ISCA 2007).
//   kReuse         like kBimodal, but admits all whose reuse distance (ghost_list.h) is at most a
//                  quarter of the cache. A scan passes by; what is used often gets in.
//
// Invariants
// - An extent at the tail is given up whenever a 32nd of the capacity (8 pages at least) has stayed
//   in a row, and the pages that have stayed are at most twice those that have not, superseded ones
//   among them, and one capacity. So space comes free whatever is hit (hazard
//   kept-without-end).
// - While somebody waits for space (`in_a_hurry`) it is a 32nd of the capacity in place of one: so
//   a third of what the tail passes comes free soon, even if all of it was hit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pcache::policy {

enum class Rule : uint8_t { kFifo, kSecondChance, kBimodal, kReuse };
inline constexpr size_t kRules = 4;

class Keeper {
 public:
  explicit Keeper(uint64_t capacity_pages);

  // Whether an extent at the tail is appended once more; otherwise it is given up, or was
  // superseded. One thread.
  bool stays(Rule rule, bool was_hit, uint64_t pages = 1, bool in_a_hurry = false);

 private:
  const uint64_t capacity_pages_, most_in_a_row_;
  // In pages.
  uint64_t moves_left_;
  uint64_t moves_in_a_row_ = 0;
};

}  // namespace pcache::policy
