// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/faults.h"

namespace pcache {

MemoryDevice::Fate Faults::fate(BlockOp op, const Extent& extent) {
  std::lock_guard lock(mu_);
  if (healed_ || random_() % one_in_ != 0) return {};
  failed_ = true;
  switch (op) {
    case BlockOp::kRead:
      counts_["read EIO"]++;
      return {EIO, 0};
    case BlockOp::kFlush:
      counts_["flush EIO"]++;
      return {EIO, 0};
    case BlockOp::kWrite:
    case BlockOp::kZero:
    case BlockOp::kPunchHole:
      break;
  }
  switch (random_() % 3) {
    case 0:
      counts_["write EIO"]++;
      return {EIO, 0};
    case 1:
      counts_["write ENOSPC"]++;
      return {ENOSPC, 0};
    default:
      // A part of it reaches the device, in whole sectors.
      counts_["write torn"]++;
      return {EIO, random_() % (extent.len / kSectorBytes + 1) * kSectorBytes};
  }
}

}  // namespace pcache
