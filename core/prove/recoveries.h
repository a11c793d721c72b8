// SPDX-License-Identifier: GPL-2.0-or-later
// Recoveries: what was found in recovered states, by their hash. Different sequences often lead to
// the same state. It is recovered once, and judged each time, as the oracle may know other facts.
// One base, one thread.
#pragma once

#include <set>
#include <unordered_map>

#include "prove/oracle.h"

namespace pcache {

class Recoveries {
 public:
  struct Recovered {
    bool formatted;               // false: the device is blank
    std::vector<VersionId> held;  // by each sector, in the order of `sectors` below
    auto operator<=>(const Recovered&) const = default;
  };
  // nullptr: not recovered yet. Valid until the next add().
  const Recovered* find(uint64_t state, const std::vector<uint64_t>& sectors) const {
    const auto known = known_.find(key(state, sectors));
    return known == known_.end() ? nullptr : known->second;
  }
  void add(uint64_t state, const std::vector<uint64_t>& sectors, Recovered recovered) {
    if (known_.size() == kMost) {
      known_.clear();
      recovered_.clear();
    }
    known_[key(state, sectors)] = &*recovered_.insert(std::move(recovered)).first;
  }

 private:
  static constexpr size_t kMost = 1 << 20;
  static uint64_t key(uint64_t state, const std::vector<uint64_t>& sectors) {
    for (const uint64_t sector : sectors) state = state * 0x9e3779b97f4a7c15 + sector;
    return state;
  }

  std::set<Recovered> recovered_;  // most are equal
  std::unordered_map<uint64_t, const Recovered*> known_;
};

}  // namespace pcache
