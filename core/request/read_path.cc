// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/read_path.h"

#include <algorithm>
#include <cstring>

#include "request/fill.h"
#include "request/queue.h"

namespace pcache {

namespace {

constexpr size_t kPieces = 8;

Extent within_range(const Extent& extent) {
  const uint64_t to_boundary = kRangeBytes - extent.off % kRangeBytes;
  return {extent.off, std::min(extent.len, to_boundary)};
}

}  // namespace

ReadPath::Outcome ReadPath::walk(pcache_request* request, ReadProgress* at, PendingRequest** read) {
  while (at->todo.len > 0) {
    uint64_t hit_bytes = 0;
    const Extent part = within_range(at->todo);
    if (const int error = copy_hits(part, at->dst, &hit_bytes)) return {Walked::kFailed, error};
    at->pass(hit_bytes);
    if (hit_bytes > 0) continue;
    if (!fetch(request, part, at, read)) return {Walked::kParked};
  }
  return {};
}

int ReadPath::copy_hits(Extent todo, std::byte* dst, uint64_t* covered) {
  while (todo.len > 0) {
    Piece pieces[kPieces];
    uint64_t gens[kPieces];
    Index::Snapshot snapshot;
    const size_t n = ctx_.index.lookup(todo, pieces, &snapshot);
    // Data that the range's own thread has stored without a fence.
    ctx_.stripes.of(todo.off).mu.settle();
    size_t hits = 0;
    for (; hits < n && pieces[hits].kind == Piece::Kind::kHit; hits++)
      gens[hits] = ctx_.segments.generation(pieces[hits].pos.seg);
    if (!ctx_.index.still_valid(snapshot)) continue;
    for (size_t i = 0; i < hits; i++) {
      if (i + 1 < hits)  // while this one is copied, and verified
        ctx_.pmem.prefetch(ctx_.segments.media(pieces[i + 1].pos), pieces[i + 1].extent.len);
      const HitResult got = copy_hit(ctx_, pieces[i], gens[i], dst);
      if (got == HitResult::kGone) break;
      if (got == HitResult::kBad) {
        if (const int error = handle_bad(pieces[i])) return error;
        break;
      }
      const uint64_t len = pieces[i].extent.len;
      *covered += len;
      dst += len;
      todo.off += len;
      todo.len -= len;
    }
    if (hits < n && todo.off == pieces[hits].extent.off) return 0;  // a gap stands at the front
  }
  return 0;
}

// Bad data that is also on the backing device is forgotten and read from there; bad dirty data is
// an error, each time it is read.
int ReadPath::handle_bad(const Piece& piece) {
  if (!piece.clean) {
    ctx_.counters.dirty_bad.add();
    ctx_.messages.print(
        LogLevel::kError,
        "dirty data of range %llu+%llu is damaged (segment %u:%u): reads of it fail",
        static_cast<unsigned long long>(piece.extent.off),
        static_cast<unsigned long long>(piece.extent.len), piece.pos.seg.v, piece.pos.off);
    return EIO;
  }
  Stripe& stripe = ctx_.stripes.of(piece.extent.off);
  StripeLock lock(stripe);
  if (ctx_.index.remove(piece.extent, piece.pos) > 0) ctx_.counters.clean_dropped.add();
  return 0;
}

bool ReadPath::fetch(pcache_request* request, Extent gap, ReadProgress* at, PendingRequest** lent) {
  Stripe& stripe = ctx_.stripes.of(gap.off);
  Fill* fill = nullptr;
  {
    StripeLock lock(stripe);
    Piece piece;
    Index::Snapshot snapshot;
    ctx_.index.lookup(gap, {&piece, 1}, &snapshot);
    if (piece.kind == Piece::Kind::kHit) return true;  // somebody cached it meanwhile
    if (*lent == nullptr) *lent = queue_.lend_pending(request);
    PendingRequest* const read = *lent;
    fill = queue_.lend_fill();
    if (fill == nullptr) return false;
    fill->extent = piece.extent;
    fill->dst = at->dst;
    fill->owner = read;
    fill->joins = nullptr;
    at->pass(piece.extent.len);
    at->fetched_bytes += piece.extent.len;
    read->parts.fetch_add(1, std::memory_order_relaxed);
    if (piece.kind == Piece::Kind::kFill) {
      Fill* other = stripe.fills.find(piece.token);
      PCACHE_CHECK(other != nullptr);
      fill->next = other->joins;
      other->joins = fill;
      if (other->owner->queue != read->queue) queue_.note_joined(read);
      ctx_.counters.fill_joins.add();
      return true;
    }
    fill->token = stripe.fills.add(fill);
    if (fill->token.v != 0 && !ctx_.index.begin_fill(piece.extent, fill->token)) {
      stripe.fills.remove(fill->token);
      fill->token = {};
    }
  }
  // Without room for its token or its marks: it is read all the same, uncached and unshared.
  if (fill->token.v == 0) ctx_.counters.fills_uncached.add();
  start_fill(ctx_, queue_, fill);
  return true;
}

}  // namespace pcache
