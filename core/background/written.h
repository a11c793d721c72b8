// SPDX-License-Identifier: GPL-2.0-or-later
// WrittenBatch: what of a plan the backing device has, as a value. write_plan() writes what is left
// of it and says so in it; it can be called again and again, and in any order for plans that are
// under way at the same time.
//
// Invariants
// - Each piece of the plan is on the device, or is left (untried, failed), or its key is bad.
// - What is on the device is not written again.
// One thread for each value, and each WriteOuts.
#pragma once

#include "background/plan.h"
#include "background/write_outs.h"

namespace pcache {

struct WrittenBatch {
  std::vector<DirtyBatch::Piece> untried;  // not on the device, and not tried since it last failed
  std::vector<DirtyBatch::Piece> failed;   // not on the device: tried in vain
  std::vector<uint32_t> bad_keys;          // ascending: their data is damaged, or cannot be read
  bool unflushed = false;                  // the device has something that no flush has covered

  bool all_written() const { return untried.empty() && failed.empty(); }
  uint64_t left_bytes() const;
  // Where the device failed; where it was given up, if nothing failed. Something is left.
  Extent first_left() const;
};

WrittenBatch nothing_written(const BatchPlan& plan);

struct WriteResult {
  int error = 0;  // positive errno; 0: nothing is left
  // What is left is not known: the value is of no use any more, and all of the plan is to be
  // written again.
  bool untold = false;
  uint64_t ios = 0, failed_ios = 0;  // writes that succeeded; attempts that failed
  uint64_t zero_ios = 0, zeroed_bytes = 0, hole_bytes = 0;  // what the device has made of zeros
};

// What has failed is tried last, and in small writes: a bad place must not keep what lies beside
// it, or behind it in the batch, from being written; the caller's thread writes that alone. May
// throw std::bad_alloc, which is `untold`.
WriteResult write_plan(WriteOuts& out, const BatchPlan& plan, const WriteOuts::Limits& limits,
                       WrittenBatch* written);

}  // namespace pcache
