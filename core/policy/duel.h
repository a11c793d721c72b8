// SPDX-License-Identifier: GPL-2.0-or-later
// Duel: which of several rivals a cache should follow, from what each of them would have missed
// (set dueling, Qureshi et al., ISCA 2007).
//
// A change of the leader costs up to one refill: as many misses as the cache has pages. So a rival
// takes over when it has missed a refill less than the leader did, counted from when it was
// furthest behind (a cumulative sum test, Page 1954). Waiting for that costs no more than the
// change itself. And a rival that gains less than a refill in one part of a lap, and loses it again
// in the next, changes nothing. The first changes come at a quarter and at a half of a refill:
// until then the leader has proved nothing.
//
// One thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace pcache::policy {

template <size_t kRivals>
class Duel {
 public:
  Duel(size_t leader, uint64_t refill) : leader_(leader), refill_(refill), margin_(refill / 4) {}

  // One access, which these rivals missed: bit i for rival i. True: another leads now.
  bool add(uint32_t missed) {
    const int64_t leaders = missed >> leader_ & 1;
    size_t best = leader_;
    for (size_t i = 0; i < kRivals; i++) {
      const int64_t gain = leaders - static_cast<int64_t>(missed >> i & 1);
      ahead_[i] = ahead_[i] + gain > 0 ? ahead_[i] + gain : 0;
      if (ahead_[i] > ahead_[best]) best = i;
    }
    if (ahead_[best] <= static_cast<int64_t>(margin_)) return false;
    follow(best);
    return true;
  }

  size_t leader() const { return leader_; }

 private:
  void follow(size_t best) {
    const int64_t lead = ahead_[best];
    for (int64_t& ahead : ahead_) ahead = ahead > lead ? ahead - lead : 0;
    leader_ = best;
    margin_ = 2 * margin_ < refill_ ? 2 * margin_ : refill_;
  }

  size_t leader_;
  const uint64_t refill_;
  uint64_t margin_;
  std::array<int64_t, kRivals> ahead_{};  // of the leader, in misses; the leader's own is 0
};

}  // namespace pcache::policy
