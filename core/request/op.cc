// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/op.h"

#include "base/mutants.h"
#include "request/extent_write.h"
#include "request/op_flush.h"
#include "request/op_read.h"
#include "request/op_write.h"

namespace pcache {

namespace {

int refuse_readonly(QueueState& queue, pcache_request* request) {
  return queue.complete_at_once(request, -EROFS, LatencyClass::kWrite, 0);
}
int flush_nothing(QueueState& queue, pcache_request* request) {
  queue.counters.flushes.add_alone();
  return queue.complete_at_once(request, 0, LatencyClass::kFlush, 0);
}
int refuse_foreign(QueueState&, pcache_request*) { return -EPERM; }

#ifdef PCACHE_MUTANTS
// Hazard trimmed-too-early: what a write will overwrite is forgotten before the write is in.
int submit_write_or_mutant(QueueState& queue, pcache_request* request) {
  if (hazard(Hazard::kTrimmedTooEarly)) {
    const Parts& parts = queue.cache.parts();
    StripeLock lock(parts.stripes.of(request->off));
    (void)parts.index.erase({request->off, extent_len(parts, request->off, request->len)});
  }
  return submit_write(queue, request);
}
#else
constexpr auto submit_write_or_mutant = submit_write;
#endif

constexpr Op kRead{submit_read, nullptr, true, true, true, LatencyClass::kReadMiss};
constexpr Op kZeros{submit_zeros, resume_write, true, false, true, LatencyClass::kZeros};
constexpr Op kNoZeros{refuse_readonly, nullptr, true, false, false, LatencyClass::kZeros};
constexpr Op kForeignZeros{refuse_foreign, nullptr, true, false, false, LatencyClass::kZeros};

}  // namespace

constexpr OpTable kOrdinaryOps = {
    kRead,
    {submit_write_or_mutant, resume_write, true, true, true, LatencyClass::kWriteWaited},
    {submit_flush, resume_flush, false, false, false, LatencyClass::kFlush},
    kZeros,
    kZeros,
};
constexpr OpTable kReadonlyOps = {
    kRead,
    {refuse_readonly, nullptr, true, true, false, LatencyClass::kWrite},
    {flush_nothing, nullptr, false, false, false, LatencyClass::kFlush},
    kNoZeros,
    kNoZeros,
};
constexpr OpTable kForeignOps = {
    {refuse_foreign, nullptr, true, true, false, LatencyClass::kReadHit},
    {refuse_foreign, nullptr, true, true, false, LatencyClass::kWrite},
    {refuse_foreign, nullptr, false, false, false, LatencyClass::kFlush},
    kForeignZeros,
    kForeignZeros,
};

constexpr bool is_complete(const OpTable& table) {
  for (const Op& op : table)
    if (op.submit == nullptr) return false;
  return true;
}
static_assert(is_complete(kOrdinaryOps) && is_complete(kReadonlyOps) && is_complete(kForeignOps));

}  // namespace pcache
