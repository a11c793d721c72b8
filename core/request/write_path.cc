// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/write_path.h"

#include <algorithm>

#include "base/mutants.h"

namespace pcache {

namespace {

struct Part {
  Extent extent;
  Place place;
  uint32_t crc = 0;
};

size_t store_parts(RequestContext& ctx, DataHead& head, Extent todo, const std::byte* buf,
                   std::span<Part> parts) {
  size_t n = 0;
  if (hazard(Hazard::kTrimmedTooEarly)) {
    MutexLock lock(ctx.stripes.of(todo.off).mu);
    (void)ctx.index.erase({todo.off, ctx.key_len(todo.off, todo.len)});
  }
  while (todo.len > 0 && n < parts.size()) {
    const auto place = head.allocate(ctx.key_len(todo.off, todo.len));
    if (!place) break;
    Part& part = parts[n++];
    part.extent = Extent{todo.off, place->len};
    part.place = *place;
    part.crc = ctx.data_crc ? data_crc32c(buf, place->len) : 0;
    ctx.pmem.store(ctx.segments.media(place->pos), buf, place->len);
    todo.off += place->len;
    todo.len -= place->len;
    buf += place->len;
  }
  return n;
}

// Enters one part; the reference of its place goes over to the key, or back.
int enter(RequestContext& ctx, Stripe& stripe, const Part& part, KeyLog::Ticket* ticket)
    REQUIRES(stripe.mu) {
  ctx.stripes.prepare(stripe);  // what is in the index must have its key
  if (!ctx.index.insert(part.extent, Location{part.place.pos, false, part.crc})) return -ENOMEM;
  const auto key = ctx.make_key(part.extent, part.place.pos, false, part.crc);
  if (const auto t = ctx.stripes.append(stripe, key)) *ticket = t;
  return 0;
}

int enter_parts(RequestContext& ctx, std::span<const Part> parts) {
  KeyLog::Ticket ticket = 0;
  int result = 0;
  size_t i = 0;
  while (i < parts.size() && result == 0) {
    Stripe& stripe = ctx.stripes.of(parts[i].extent.off);
    MutexLock lock(stripe.mu);
    while (i < parts.size() && &ctx.stripes.of(parts[i].extent.off) == &stripe &&
           (result = enter(ctx, stripe, parts[i], &ticket)) == 0)
      i++;
  }
  for (; i < parts.size(); i++) ctx.segments.drop_refs(parts[i].place.pos.seg);
  if (ticket) {
    // A full log is no error of a plain write: the ksets stay queued, and whoever has to make them
    // durable commits again.
    const Status committed = ctx.log.commit(ticket);
    (void)committed;
  }
  return result;
}

// Stores up to `kParts` parts under one fence, then enters them, until all is done.
template <size_t kParts>
int write_by(RequestContext& ctx, DataHead& head, Extent todo, const std::byte* from,
             uint64_t* done_bytes) {
  while (todo.len > 0) {
    Part parts[kParts];
    const size_t n = store_parts(ctx, head, todo, from, parts);
    if (n == 0) return -ENOSPC;
    ctx.pmem.fence();
    if (const int result = enter_parts(ctx, {parts, n})) return result;
    const uint64_t done = parts[n - 1].extent.end() - todo.off;
    todo.off += done;
    todo.len -= done;
    from += done;
    *done_bytes += done;
  }
  return 0;
}

int write_data(RequestContext& ctx, DataHead& head, const pcache_request& request,
               uint64_t* done_bytes) {
  const Extent todo{request.off + *done_bytes, request.len - *done_bytes};
  auto* from = static_cast<const std::byte*>(request.buf) + *done_bytes;
  // A small write should not pay for initialising what a large one needs.
  if (todo.len <= 2 * kCrcExtentBytes) return write_by<4>(ctx, head, todo, from, done_bytes);
  return write_by<64>(ctx, head, todo, from, done_bytes);
}

int flush(RequestContext& ctx) {
  if (const Status flushed = ctx.stripes.flush(); !flushed) return -flushed.error().code;
  return -ctx.take_lost();
}

}  // namespace

int write_request(RequestContext& ctx, DataHead& head, const pcache_request& request,
                  WriteProgress* progress) {
  if (request.op == PCACHE_OP_FLUSH) return flush(ctx);
  if (request.flags & PCACHE_REQ_PREFLUSH && !progress->flushed_before) {
    if (!hazard(Hazard::kPreflushForgotten))
      if (const int result = flush(ctx)) return result;
    progress->flushed_before = true;
    if (hazard(Hazard::kPreflushDropsData)) return 0;
  }
  if (progress->done_bytes < request.len)
    if (const int result = write_data(ctx, head, request, &progress->done_bytes)) return result;
  if (hazard(Hazard::kFuaForgotten)) return 0;
  return request.flags & PCACHE_REQ_FUA ? flush(ctx) : 0;
}

}  // namespace pcache
