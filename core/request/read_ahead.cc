// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/read_ahead.h"

#include <algorithm>
#include <bit>

#include "request/queue_state.h"

namespace pcache {

Fill* ReadAhead::prepare(const Extent& extent, uint64_t align) {
  if (extent.len > buffer_bytes_) {
    buffer_bytes_ = 0;
    buffer_.reset(
        static_cast<std::byte*>(aligned_alloc(align, (extent.len + align - 1) / align * align)));
    if (!buffer_) return nullptr;
    buffer_bytes_ = extent.len;
  }
  fill_.extent = extent;
  fill_.dst = buffer_.get();
  fill_.owner = &owner_;
  fill_.is_kept = true;
  fill_.joins = nullptr;
  return &fill_;
}

void read_ahead(QueueState& queue, const Extent& miss, uint64_t run_bytes) {
  RequestState& cache = queue.cache;
  const Parts& parts = cache.parts();
  const uint64_t off = miss.end(), end = cache.logical_bytes();
  if (run_bytes <= miss.len || parts.readonly || queue.ahead.under_way()) return;
  // As much as the run has had, so that it doubles. What is last may be no more.
  uint64_t len = std::min({cache.read_ahead_bytes(), std::bit_floor(run_bytes), end - off,
                           kRangeBytes - off % kRangeBytes});
  len -= len % parts.block_bytes;
  const Extent extent{off, len};
  if (len == 0 || !cache.deferred().empty()) return;
  Stripe& stripe = parts.stripes.of(off);
  Fill* fill = nullptr;
  {
    StripeLock lock(stripe);
    Piece piece;
    Index::Snapshot unused;
    parts.index.lookup(extent, {&piece, 1}, &unused);
    if (piece.kind != Piece::Kind::kMiss) return;
    const Extent gap{off, piece.extent.len - piece.extent.len % parts.block_bytes};
    if (gap.len == 0 || (parts.retention && !parts.retention->admits(gap))) return;
    fill = queue.ahead.prepare(gap, std::max<uint64_t>(kPageBytes, parts.block_bytes));
    if (fill == nullptr) return;
    fill->token = stripe.fills.add(fill);
    if (fill->token.v == 0) return;
    if (!parts.index.begin_fill(gap, fill->token)) {
      stripe.fills.remove(fill->token);
      return;
    }
    queue.ahead.begin();
  }
  queue.sequential_misses.run_bytes(fill->extent);
  cache.counters().fill_ahead_bytes.add(fill->extent.len);
  start_fill(queue, fill);
}

}  // namespace pcache
