// SPDX-License-Identifier: GPL-2.0-or-later
// Faults: decides by a seed whether a request of the backing device fails, and how. Any thread.
#pragma once

#include <map>
#include <mutex>
#include <random>
#include <string>

#include "testing/memory_device.h"

namespace pcache {

class Faults {
 public:
  // About one request in `one_in` fails.
  explicit Faults(uint64_t seed, uint64_t one_in = 3) : random_(seed), one_in_(one_in) {}

  MemoryDevice::Fate fate(BlockOp op, const Extent& extent);
  void heal() {
    std::lock_guard lock(mu_);
    healed_ = true;
  }
  // Whether the device has failed a request since the last call.
  bool take_failed() {
    std::lock_guard lock(mu_);
    return std::exchange(failed_, false);
  }
  // The number of faults of each kind, for the table.
  std::map<std::string, uint64_t> counts() {
    std::lock_guard lock(mu_);
    return counts_;
  }

 private:
  std::mutex mu_;
  std::mt19937_64 random_;
  const uint64_t one_in_;
  bool healed_ = false;
  bool failed_ = false;
  std::map<std::string, uint64_t> counts_;
};

}  // namespace pcache
