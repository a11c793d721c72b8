// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/written.h"

#include <algorithm>
#include <iterator>

#include "base/mutants.h"

namespace pcache {

namespace {

using Pieces = std::vector<DirtyBatch::Piece>;

// Writes `pieces`; what is bad goes to `written`, what is left is returned.
WriteOut::Done write(WriteOuts& out, const BatchPlan& plan, const Pieces& pieces,
                     const WriteOuts::Limits& limits, WrittenBatch* written, WriteResult* result) {
  WriteOut::Done done = out.write(plan.batch, pieces, limits);
  result->ios += done.ios;
  result->zero_ios += done.zero_ios;
  result->zeroed_bytes += done.zeroed_bytes;
  result->hole_bytes += done.hole_bytes;
  result->failed_ios += done.failed_ios;
  result->error = done.error;
  result->untold |= done.untold;
  written->unflushed |= done.ios > 0 || (done.zero_ios > 0 && !hazard(Hazard::kZerosNotFlushed));
  if (done.bad_keys.empty()) return done;
  std::vector<uint32_t> bad;
  std::set_union(written->bad_keys.begin(), written->bad_keys.end(), done.bad_keys.begin(),
                 done.bad_keys.end(), std::back_inserter(bad));
  written->bad_keys = std::move(bad);
  return done;
}

}  // namespace

uint64_t WrittenBatch::left_bytes() const {
  uint64_t bytes = 0;
  for (const Pieces* pieces : {&untried, &failed})
    for (const DirtyBatch::Piece& piece : *pieces) bytes += piece.extent.len;
  return bytes;
}

Extent WrittenBatch::first_left() const {
  PCACHE_CHECK(!all_written());
  Extent first = (failed.empty() ? untried : failed).front().extent;
  for (const DirtyBatch::Piece& piece : failed)
    if (piece.extent.off < first.off) first = piece.extent;
  return first;
}

WrittenBatch nothing_written(const BatchPlan& plan) {
  WrittenBatch written;
  written.untried = plan.pieces;
  return written;
}

WriteResult write_plan(WriteOuts& out, const BatchPlan& plan, const WriteOuts::Limits& limits,
                       WrittenBatch* written) {
  WriteResult result;
  PCACHE_DCHECK(written->bad_keys.empty() || written->bad_keys.back() < plan.batch.keys().size());
  WriteOut::Done done = write(out, plan, written->untried, limits, written, &result);
  if (result.untold) return result;
  written->untried = std::move(done.untried);
  Pieces& failed = written->failed;
  failed.insert(failed.end(), done.failed.begin(), done.failed.end());
  if (written->untried.empty() && !failed.empty()) {
    done = write(out, plan, failed, {.depth = limits.depth, .write_bytes = WriteOut::kLeastBytes},
                 written, &result);
    if (result.untold) return result;
    failed = std::move(done.untried);  // first, next time
    failed.insert(failed.end(), done.failed.begin(), done.failed.end());
  }
  PCACHE_CHECK(written->all_written() == (result.error == 0));
  return result;
}

}  // namespace pcache
