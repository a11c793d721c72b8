// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/write_path.h"

#include <algorithm>
#include <array>

#include "base/mutants.h"
#include "request/write_one.h"

namespace pcache {

namespace {

constexpr size_t kParts = 16;  // stored under one fence

struct Entered {
  size_t parts = 0;
  uint64_t bytes = 0;
  bool no_buffer = false;  // for the key of the next one
};

// Enters parts from the front; all of them, or as far as there is memory.
Entered enter_parts(RequestContext& ctx, std::span<const Part> parts) {
  bool fenced = false;
  const auto fence = [&] {
    if (!fenced) ctx.pmem.fence();
    fenced = true;
  };
  KeyLog::Ticket ticket = 0;
  Entered done;
  bool entered = true;
  while (done.parts < parts.size() && entered) {
    Stripe& stripe = ctx.stripes.of(parts[done.parts].off);
    StripeLock lock(stripe, fence);
    const ThreadSerial unfenced_by = fenced ? KsetBuffer::kNobody : lock.by_bias();
    while (done.parts < parts.size() && &ctx.stripes.of(parts[done.parts].off) == &stripe &&
           (entered = enter_part(ctx, stripe, parts[done.parts], unfenced_by, &ticket)))
      done.bytes += parts[done.parts++].len;
    done.no_buffer = !entered && stripe.kset == nullptr;
  }
  commit_full(ctx, ticket);
  return done;
}

// Enters all of `parts`, or gives the places of the rest back. What is open in DRAM holds memory
// that a write which finds none can have: closed and committed it is free again. 0, -ENOSPC when
// the log has no room for that now, -ENOMEM.
int enter_all(RequestContext& ctx, std::span<const Part> parts, uint64_t* entered_bytes) {
  // Other threads may take what has come free: then they go on, and in the end so do we.
  constexpr int kMostTries = 1000;
  int result = 0;
  for (int tries = 0; !parts.empty() && result == 0; tries++) {
    const Entered done = enter_parts(ctx, parts);
    *entered_bytes += done.bytes;
    parts = parts.subspan(done.parts);
    if (parts.empty()) break;
    if (!done.no_buffer || tries == kMostTries)
      result = -ENOMEM;
    else if (const Status freed = ctx.stripes.free_buffers(); !freed)
      result = -freed.error().code;
  }
  for (const Part& part : parts) ctx.segments.drop_refs(SegId{part.seg});
  return result;
}

int flush(RequestContext& ctx) {
  if (const Status flushed = ctx.stripes.flush(); !flushed) return -flushed.error().code;
  return -ctx.take_lost();
}

}  // namespace

// As many parts as fit are stored, then entered, until all is done.
int write_data(RequestContext& ctx, DataHead& head, Extent todo, const std::byte* from,
               uint64_t* done_bytes) {
  uint32_t lost = 0;
  while (todo.len > 0) {
    std::array<Part, kParts> parts;
    size_t n = 0;
    uint64_t stored = 0;
    while (stored < todo.len && n < kParts) {
      const uint64_t off = todo.off + stored;
      const Place place = head.allocate(ctx.key_len(off, todo.len - stored));
      if (!place) break;
      parts[n] = store_part(ctx, off, place.pos, place.len, from + stored);
      if (parts[n].len == 0) [[unlikely]] {
        ctx.give_up_place(head, place.pos.seg);
        if (++lost > ctx.segments.size()) break;
        continue;  // elsewhere
      }
      stored += place.len;
      n++;
    }
    if (n == 0) {
      const bool for_ever = lost > ctx.segments.size() || ctx.segments.exhausted_for_data();
      return for_ever ? -EIO : -ENOSPC;
    }
    uint64_t entered = 0;
    const int result = enter_all(ctx, {parts.data(), n}, &entered);
    *done_bytes += entered;
    if (result) return result;
    todo.off += stored;
    todo.len -= stored;
    from += stored;
  }
  return 0;
}

int write_request(RequestContext& ctx, DataHead& head, const pcache_request& request,
                  WriteProgress* progress) {
  if (request.op == PCACHE_OP_FLUSH) return flush(ctx);
  if (ctx.log.failed()) return -EIO;  // it would never be durable
  if (request.flags & PCACHE_REQ_PREFLUSH && !progress->flushed_before) {
    if (!hazard(Hazard::kPreflushForgotten))
      if (const int result = flush(ctx)) return result;
    progress->flushed_before = true;
    if (hazard(Hazard::kPreflushDropsData)) return 0;
  }
  if (const uint64_t done = progress->done_bytes; done < request.len) {
    auto* from = static_cast<const std::byte*>(request.buf) + done;
    const Extent todo{request.off + done, request.len - done};
    if (write_one(ctx, head, todo.off, todo.len, from))
      progress->done_bytes = request.len;
    else if (const int result = write_data(ctx, head, todo, from, &progress->done_bytes))
      return result;
  }
  if (hazard(Hazard::kFuaForgotten)) return 0;
  return request.flags & PCACHE_REQ_FUA ? flush(ctx) : 0;
}

}  // namespace pcache
