// SPDX-License-Identifier: GPL-2.0-or-later
// Parts: the modules of an attached cache, as requests and background work both see them, and what
// stays the same while it is attached. They outlive both. Parts has no state of its own:
// RequestState has what requests change; Writeback, Reclaim and Worker have what background work
// changes.
#pragma once

#include "base/log.h"
#include "blockdev/block_device.h"
#include "index/index.h"
#include "keylog/key_log.h"
#include "keylog/tails.h"
#include "parts/mode_switch.h"
#include "parts/zero_backlog.h"
#include "pmem/pmem.h"
#include "policy/retention.h"
#include "segment/segment_table.h"
#include "stripe/stripes.h"

namespace pcache {

struct Parts {
  Pmem& pmem;
  SegmentTable& segments;
  Index& index;
  KeyLog& log;
  Stripes& stripes;
  Tails& tails;
  BlockDevice& backing;
  policy::Retention& retention;
  const Log& messages;
  bool data_crc = false;
  bool readonly = false;       // nothing may be stored: a data head gets no segment
  bool follows = false;        // another process writes back, and moves dirty_tail
  uint64_t logical_bytes = 0;  // of the backing device when it was attached
  uint32_t block_bytes = 512;  // requests are aligned to it; a power of two
  // An extent is no longer than this, a power of two. With data_crc extents are short, since a read
  // of a part of one has to check all of it.
  uint32_t max_extent_bytes = kRangeBytes;
  ZeroBacklog* zeros = nullptr;  // nullptr: without a bound
  const ModeSwitch* mode = &kAlwaysWriteback;
};

// A page: random reads of what was written in one piece were 2.5 times as fast as with 16 KiB, long
// writes 1.0 to 1.3 times (the crc is made while the data is in L1), long reads 0.84 times.
inline constexpr uint32_t kCrcExtentBytes = kPageBytes;

}  // namespace pcache
