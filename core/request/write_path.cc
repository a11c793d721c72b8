// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/write_path.h"

#include <algorithm>
#include <array>

#include "base/mutants.h"
#include "request/write_one.h"

namespace pcache {

namespace {

constexpr size_t kParts = 16;  // stored under one fence

int enter_parts(RequestContext& ctx, std::span<const Part> parts) {
  bool fenced = false;
  const auto fence = [&] {
    if (!fenced) ctx.pmem.fence();
    fenced = true;
  };
  KeyLog::Ticket ticket = 0;
  size_t n = 0;
  bool entered = true;
  while (n < parts.size() && entered) {
    Stripe& stripe = ctx.stripes.of(parts[n].off);
    BiasedLock lock(stripe.mu, fence);
    const ThreadSerial unfenced_by = fenced ? KsetBuffer::kNobody : lock.by_bias();
    while (n < parts.size() && &ctx.stripes.of(parts[n].off) == &stripe &&
           (entered = enter_part(ctx, stripe, parts[n], unfenced_by, &ticket)))
      n++;
  }
  for (; n < parts.size(); n++) ctx.segments.drop_refs(SegId{parts[n].seg});
  commit_full(ctx, ticket);
  return entered ? 0 : -ENOMEM;
}

int flush(RequestContext& ctx) {
  if (const Status flushed = ctx.stripes.flush(); !flushed) return -flushed.error().code;
  return -ctx.take_lost();
}

}  // namespace

// As many parts as fit are stored, then entered, until all is done.
int write_data(RequestContext& ctx, DataHead& head, Extent todo, const std::byte* from,
               uint64_t* done_bytes) {
  while (todo.len > 0) {
    std::array<Part, kParts> parts;
    size_t n = 0;
    uint64_t stored = 0;
    while (stored < todo.len && n < kParts) {
      const uint64_t off = todo.off + stored;
      const Place place = head.allocate(ctx.key_len(off, todo.len - stored));
      if (!place) break;
      parts[n++] = store_part(ctx, off, place.pos, place.len, from + stored);
      stored += place.len;
    }
    if (n == 0) return -ENOSPC;
    if (const int result = enter_parts(ctx, {parts.data(), n})) return result;
    todo.off += stored;
    todo.len -= stored;
    from += stored;
    *done_bytes += stored;
  }
  return 0;
}

int write_request(RequestContext& ctx, DataHead& head, const pcache_request& request,
                  WriteProgress* progress) {
  if (request.op == PCACHE_OP_FLUSH) return flush(ctx);
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
