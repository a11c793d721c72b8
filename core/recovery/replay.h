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
  uint64_t dead_keys = 0;  // of an older generation
  // Of these, dirty ones behind dirty_tail. A segment is freed when no key names it any more, so no
  // crash makes them. Their data is lost, but for ranges that later dirty keys name again.
  uint64_t dead_dirty_keys = 0;
  RangeSet lost;
  uint64_t dirty_ksets = 0;  // behind dirty_tail
  uint64_t dirty_keys = 0;
  uint64_t dirty_bytes = 0;        // as appended; overlaps count twice
  uint64_t dirty_zero_bytes = 0;   // of these, what is zeros
  std::vector<uint64_t> repeated;  // prints of ksets that come again, see KsetCopies
  bool dirty_tail_met = false;
  bool torn_tail = false;  // the log ends in an invalid header, not in a cleared one
  // A key has a newer generation than its segment: the newest generation record was lost. The state
  // is useless: call raise_generations(), then replay into a fresh table and index.
  bool generations_lost = false;
};

// `threads`: how many are to change the index, with the caller's, which alone reads the log.
// `flush_seen`: see RecoverOptions.
Result<ReplayResult> replay(const Pmem& pmem, SegmentTable& segments, Index& index,
                            const Tails& tails, const Bounds& bounds, unsigned threads = 1,
                            bool flush_seen = false);

// Raises each segment's generation to that of the newest key in the log.
Status raise_generations(const Pmem& pmem, SegmentTable& segments, const Tails& tails,
                         const Bounds& bounds);

}  // namespace pcache
