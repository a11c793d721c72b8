// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/read_ahead.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "request/queue_state.h"

namespace pcache {

bool ReadAhead::make_buffer(uint64_t len_bytes, uint64_t align) {
  if (len_bytes <= buffer_bytes_) return true;
  buffer_bytes_ = 0;
  const uint64_t whole = (len_bytes + align - 1) / align * align;
  buffer_.reset(static_cast<std::byte*>(aligned_alloc(align, whole)));
  if (!buffer_) return false;
  buffer_bytes_ = whole;
  return true;
}

Fill* ReadAhead::prepare(const Extent& extent) {
  PCACHE_DCHECK(!under_way() && extent.len <= buffer_bytes_);
  fill_.extent = extent;
  fill_.dst = buffer_.get();
  fill_.owner = &owner_;
  fill_.is_kept = true;
  fill_.joins = nullptr;
  return &fill_;
}

namespace {

// What may be read ahead from there on; empty: nothing.
Extent wanted(const RequestState& cache, uint64_t off, uint64_t run_bytes) {
  const Parts& parts = cache.parts();
  const uint64_t device_end = cache.logical_bytes(), cutoff = cache.seq_cutoff_bytes();
  // As much as the run has had, so that it doubles.
  uint64_t len = std::min({cache.read_ahead_bytes(), std::bit_floor(run_bytes), device_end - off,
                           kRangeBytes - off % kRangeBytes});
  if (cutoff != 0) len = std::min(len, cutoff - std::min(cutoff, run_bytes));
  // Pages stay whole, and blocks of the device.
  if (off + len < device_end) len -= std::min(len, (off + len) % kPageBytes);
  return {off, len - len % parts.block_bytes};
}

}  // namespace

void read_ahead(QueueState& queue, const Extent& miss, uint64_t run_bytes) {
  RequestState& cache = queue.cache;
  const Parts& parts = cache.parts();
  if (run_bytes <= miss.len || parts.readonly || queue.ahead.under_way()) return;
  if (!cache.deferred().empty() || !parts.retention.keeps_all()) return;
  const Extent extent = wanted(cache, miss.end(), run_bytes);
  const uint64_t align = std::max<uint64_t>(kPageBytes, parts.block_bytes);
  if (extent.len == 0 || queue.ahead.has_failed(extent)) return;
  if (!queue.ahead.make_buffer(extent.len, align)) return;
  Stripe& stripe = parts.stripes.of(extent.off);
  Fill* fill = nullptr;
  {
    StripeLock lock(stripe);
    Piece piece;
    Index::Snapshot unused;
    parts.index.lookup(extent, {&piece, 1}, &unused);
    const Extent gap{extent.off, piece.extent.len - piece.extent.len % parts.block_bytes};
    if (piece.kind != Piece::Kind::kMiss || gap.len == 0) return;
    fill = queue.ahead.prepare(gap);
    fill->token = stripe.fills.add(fill);
    if (fill->token.v == 0) return;
    if (!parts.index.begin_fill(gap, fill->token)) {
      stripe.fills.remove(fill->token);
      return;
    }
    queue.ahead.begin();
  }
  queue.sequential_misses.goes_on_with(fill->extent);
  cache.counters().fill_ahead_bytes.add(fill->extent.len);
  start_fill(queue, fill);
}

}  // namespace pcache
