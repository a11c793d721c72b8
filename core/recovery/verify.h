// SPDX-License-Identifier: GPL-2.0-or-later
// Checks cached data against data_crc after replay. Writes nothing to media.
#pragma once

#include <functional>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "index/index.h"
#include "keylog/tails.h"
#include "segment/segment_table.h"

namespace pcache {

// A part of the logical device whose data in the cache fails its crc, or cannot be read.
struct DamagedExtent {
  Extent extent;
  CachePos pos;  // of its first byte
  bool clean = false;
};

struct VerifyResult {
  uint64_t clean_dropped = 0;  // keys; read from the backing device again when they are needed
  uint64_t dirty_bad = 0;      // keys; the data is nowhere else: reads fail
  std::vector<DamagedExtent> damaged;
};

// With data_crc, after replay: checks the data of every key of which something is still in the
// index against its crc. Keys that are dead, or wholly overwritten, are not looked at: the
// generation is compared first (hazard crc-before-generation). Clean ones leave the index; dirty
// ones stay, and are named in the log lines. `progress` is called now and then with the bytes of
// the keys passed.
Result<VerifyResult> verify_replayed(const Pmem& pmem, const SegmentTable& segments, Index& index,
                                     const Tails& tails, const Log& messages,
                                     const std::function<void(uint64_t)>& progress = nullptr);

}  // namespace pcache
