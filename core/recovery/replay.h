// SPDX-License-Identifier: GPL-2.0-or-later
// Replay: rebuilds the index and the segments' use from the log at attach. Writes nothing.
#pragma once

#include "base/range_set.h"
#include "base/result.h"
#include "index/index.h"
#include "keylog/log_cursor.h"
#include "keylog/tails.h"
#include "segment/segment_table.h"

namespace pcache {

struct ReplayResult {
  CachePos head;
  uint64_t ksets = 0;
  uint64_t keys = 0;       // live
  uint64_t dead_keys = 0;  // of a generation that is gone
  // Of them, dirty ones behind dirty_tail: a segment comes free when none of its keys is left
  // there, so no crash makes these. What they named is lost, but for what later dirty keys name
  // again.
  uint64_t dead_dirty_keys = 0;
  RangeSet lost;
  uint64_t dirty_ksets = 0;  // behind dirty_tail
  uint64_t dirty_keys = 0;
  uint64_t dirty_bytes = 0;        // as appended; overlaps count twice
  std::vector<uint64_t> repeated;  // prints of ksets that come again, see KsetCopies
  bool dirty_tail_met = false;
  bool torn_tail = false;  // the log ends in something invalid rather than in a cleared header
  // A key is younger than its segment's generation: the newest generation record was lost. The
  // state built so far is of no use: raise_generations(), then replay into a fresh table and index.
  bool generations_lost = false;
};

Result<ReplayResult> replay(const Pmem& pmem, SegmentTable& segments, Index& index,
                            const Tails& tails, const Bounds& bounds);

// Raises each segment's generation to that of the youngest key the log holds for it.
Status raise_generations(const Pmem& pmem, SegmentTable& segments, const Tails& tails,
                         const Bounds& bounds);

}  // namespace pcache
