// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/write_path.h"

#include <algorithm>

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
    const Status committed = ctx.log.commit(ticket);
    if (!committed && result == 0) result = -committed.error().code;
  }
  return result;
}

// Stores up to `kParts` parts under one fence, then enters them, until all is done.
template <size_t kParts>
int write_by(RequestContext& ctx, DataHead& head, Extent todo, const std::byte* from) {
  while (todo.len > 0) {
    Part parts[kParts];
    const size_t n = store_parts(ctx, head, todo, from, parts);
    if (n == 0) {
      ctx.counters.full.fetch_add(1, std::memory_order_relaxed);
      return -ENOSPC;
    }
    ctx.pmem.fence();
    if (const int result = enter_parts(ctx, {parts, n})) return result;
    const uint64_t done = parts[n - 1].extent.end() - todo.off;
    todo.off += done;
    todo.len -= done;
    from += done;
  }
  return 0;
}

}  // namespace

int write_extents(RequestContext& ctx, DataHead& head, uint64_t off, uint64_t len,
                  const void* buf) {
  auto* from = static_cast<const std::byte*>(buf);
  // A small write should not pay for initialising what a large one needs.
  if (len <= 2 * kCrcExtentBytes) return write_by<4>(ctx, head, {off, len}, from);
  return write_by<64>(ctx, head, {off, len}, from);
}

}  // namespace pcache
