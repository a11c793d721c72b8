// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/cleaning_costs.h"

#include "base/check.h"

namespace pcache {

namespace {

// What is moved costs pmem bandwidth, which requests need: at three quarters four bytes are stored
// for one that is written.
constexpr double kMostLive = 0.75;
// Data that stays in the cache may be superseded later and never written.
constexpr double kPreferMoving = 2;
// Until both are known.
constexpr double kCopyToDevice = 4;

}  // namespace

void CleaningCosts::Rate::add(uint64_t bytes, uint64_t ns) {
  if (bytes == 0) return;
  while (bytes_ > kMemoryBytes) {
    bytes_ /= 2;
    ns_ /= 2;
  }
  bytes_ += bytes;
  ns_ += ns > 0 ? ns : 1;
}

bool CleaningCosts::moving_pays(uint64_t live_bytes, uint64_t all_bytes) const {
  PCACHE_CHECK(live_bytes <= all_bytes);
  if (all_bytes == 0) return true;
  const double live = static_cast<double>(live_bytes) / static_cast<double>(all_bytes);
  if (live > kMostLive) return false;
  const double ratio =
      device_.known() && copy_.known() ? copy_.value() / device_.value() : kCopyToDevice;
  return kPreferMoving * ratio * (1 - live) > 1;
}

}  // namespace pcache
