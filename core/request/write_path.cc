// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/write_path.h"

#include <algorithm>
#include <array>

#include "base/mutants.h"

namespace pcache {

namespace {

// A piece of a write that one key names.
struct Part {
  Extent extent;
  Place place;
  uint32_t crc;
};
constexpr size_t kParts = 16;  // stored under one fence

// A head comes to ever new pages, and where they are mapped is in no cache of the CPU: with pages
// of 4 KiB, 8 to a line of the page table, a miss for every 32 KiB that takes as long as storing 4
// KiB. One load, a line ahead of what is stored, brings it in time. To be asked for behind the
// store and not before it: a prefetch retires when it has its translation, and stores leave the CPU
// only when they have retired. 4 KiB writes, against none: 1.1 times as fast before, 1.2 behind.
// Longer ones gained nothing.
void prefetch_mapping(const RequestContext& ctx, MediaOff at, uint32_t len_bytes) {
  constexpr uint64_t kTableLineBytes = 8 * kPageBytes;
  const uint64_t next_line = at.v / kTableLineBytes * kTableLineBytes + kTableLineBytes;
  if (at.v + len_bytes >= next_line) ctx.pmem.prefetch(MediaOff{next_line + kTableLineBytes});
}

[[gnu::always_inline]] inline Part store_part(RequestContext& ctx, const Extent& extent,
                                              const Place& place, const std::byte* from) {
  const MediaOff at = ctx.segments.media(place.pos);
  ctx.pmem.store(at, from, place.len);
  prefetch_mapping(ctx, at, place.len);
  return {{extent.off, place.len}, place, ctx.data_crc ? data_crc32c(from, place.len) : 0};
}

// Into the index and the open kset; the reference of its place goes over to the key. False: no
// memory, nothing is changed. Inlined: it is most of a short write.
[[gnu::always_inline]] inline bool enter(RequestContext& ctx, Stripe& stripe, const Part& part,
                                         bool fenced, KeyLog::Ticket* ticket) REQUIRES(stripe.mu) {
  ctx.stripes.prepare(stripe);  // what is in the index must have its key
  if (!ctx.index.insert(part.extent, Location{part.place.pos, false, part.crc})) [[unlikely]]
    return false;
  if (!fenced) ctx.stripes.leave_unfenced(stripe);
  const auto full = ctx.stripes.append_made(
      stripe, [&] { return ctx.make_key(part.extent, part.place.pos, false, part.crc); });
  if (full != 0) [[unlikely]]
    *ticket = full;
  return true;
}

// Makes durable what has become full. A full log is no error of a plain write: the ksets stay
// queued, and whoever has to make them durable commits again.
void commit_full(RequestContext& ctx, KeyLog::Ticket ticket) {
  if (ticket == 0) [[likely]]
    return;
  const Status committed = ctx.log.commit(ticket);
  (void)committed;
}

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
    Stripe& stripe = ctx.stripes.of(parts[n].extent.off);
    BiasedLock lock(stripe.mu, fence);
    while (n < parts.size() && &ctx.stripes.of(parts[n].extent.off) == &stripe &&
           (entered = enter(ctx, stripe, parts[n], fenced, &ticket)))
      n++;
  }
  for (; n < parts.size(); n++) ctx.segments.drop_refs(parts[n].place.pos.seg);
  commit_full(ctx, ticket);
  return entered ? 0 : -ENOMEM;
}

// A write of one key; all of enter_parts() that it needs.
inline int enter_part(RequestContext& ctx, const Part& part) {
  KeyLog::Ticket ticket = 0;
  bool fenced = false, entered;
  {
    Stripe& stripe = ctx.stripes.of(part.extent.off);
    BiasedLock lock(stripe.mu, [&] {
      ctx.pmem.fence();
      fenced = true;
    });
    entered = enter(ctx, stripe, part, fenced, &ticket);
  }
  if (!entered) [[unlikely]]
    ctx.segments.drop_refs(part.place.pos.seg);
  commit_full(ctx, ticket);
  return entered ? 0 : -ENOMEM;
}

// As many parts as fit are stored, then entered, until all is done.
int write_in_parts(RequestContext& ctx, DataHead& head, Extent todo, const std::byte* from,
                   uint64_t* done_bytes) {
  while (todo.len > 0) {
    std::array<Part, kParts> parts;
    size_t n = 0;
    uint64_t stored = 0;
    while (stored < todo.len && n < kParts) {
      const Extent rest{todo.off + stored, todo.len - stored};
      const Place place = head.allocate(ctx.key_len(rest.off, rest.len));
      if (!place) break;
      parts[n++] = store_part(ctx, rest, place, from + stored);
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

int flush(RequestContext& ctx) {
  if (const Status flushed = ctx.stripes.flush(); !flushed) return -flushed.error().code;
  return -ctx.take_lost();
}

}  // namespace

int write_data(RequestContext& ctx, DataHead& head, Extent todo, const std::byte* from,
               uint64_t* done_bytes) {
  if (hazard(Hazard::kTrimmedTooEarly)) {
    BiasedLock lock(ctx.stripes.of(todo.off).mu);
    (void)ctx.index.erase({todo.off, ctx.key_len(todo.off, todo.len)});
  }
  ctx.index.prefetch(todo.off);  // is there by the time the data is stored
  if (!ctx.is_one_key(todo)) return write_in_parts(ctx, head, todo, from, done_bytes);
  // One key, as most writes are, unless it meets a segment's end.
  const Place place = head.allocate(static_cast<uint32_t>(todo.len));
  if (!place) [[unlikely]]
    return -ENOSPC;
  const Part part = store_part(ctx, todo, place, from);
  if (const int result = enter_part(ctx, part)) [[unlikely]]
    return result;
  *done_bytes += place.len;
  if (place.len == todo.len) [[likely]]
    return 0;
  return write_in_parts(ctx, head, {todo.off + place.len, todo.len - place.len}, from + place.len,
                        done_bytes);
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
    if (const int result = write_data(ctx, head, todo, from, &progress->done_bytes)) return result;
  }
  if (hazard(Hazard::kFuaForgotten)) return 0;
  return request.flags & PCACHE_REQ_FUA ? flush(ctx) : 0;
}

}  // namespace pcache
