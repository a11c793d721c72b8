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
  uint64_t clean_dropped = 0;  // keys; the backing device has their data
  uint64_t dirty_bad = 0;      // keys; no other copy of the data: reads fail
  std::vector<DamagedExtent> damaged;
};

// With data_crc, after replay: checks the data of each key that still has a part in the index
// against its crc. Skips keys that are dead or wholly overwritten: it compares the generation first
// (hazard crc-before-generation). Damaged clean data leaves the index; damaged dirty data stays,
// and `messages` name it. `threads` look at it, with the caller's. `progress` sometimes gets the
// bytes of the keys so far.
Result<VerifyResult> verify_replayed(const Pmem& pmem, const SegmentTable& segments, Index& index,
                                     const Tails& tails, const Log& messages, unsigned threads = 1,
                                     const std::function<void(uint64_t)>& progress = nullptr);

}  // namespace pcache
