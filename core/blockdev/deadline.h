// SPDX-License-Identifier: GPL-2.0-or-later
// Deadline: the rest of a timeout, over several sleeps. Reads the clock only if there is a timeout.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdint>

#include "base/check.h"

namespace pcache {

class Deadline {
 public:
  // timeout_ns < 0: never.
  explicit Deadline(int64_t timeout_ns)
      : end_ns_(timeout_ns < 0 ? -1 : now_ns() + std::min(timeout_ns, kLongestNs)) {}

  // The time left, at most `limit_ns`; 0 when the deadline has passed.
  int64_t left_ns(int64_t limit_ns) const {
    PCACHE_DCHECK(limit_ns >= 0);
    if (end_ns_ < 0) return limit_ns;
    return std::clamp<int64_t>(end_ns_ - now_ns(), 0, limit_ns);
  }

 private:
  static constexpr int64_t kLongestNs = int64_t{1} << 60;  // keeps the sum from overflowing

  static int64_t now_ns() {
    timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1'000'000'000ll + ts.tv_nsec;
  }

  int64_t end_ns_;
};

}  // namespace pcache
