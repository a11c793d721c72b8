// SPDX-License-Identifier: GPL-2.0-or-later
// One piece of a write, which one key names: stored, then entered into the index and its stripe's
// open kset. And the whole of a write that is no more than that, as most are. Inlined: of a short
// write this is most of what it costs beside the copy.
#pragma once

#include "base/crc32c.h"
#include "base/mutants.h"
#include "request/context.h"

namespace pcache {

// Flat: of structs in structs the compiler keeps copies in memory.
struct Part {
  uint64_t off;           // of the backing device
  uint32_t len;           // 0: its place has a bad page
  uint32_t seg, seg_off;  // its place
  uint32_t crc;
  uint64_t gen;  // of its segment, which stays in this life while a place in it has no key

  CachePos pos() const { return {SegId{seg}, seg_off}; }
};

// A head comes to ever new pages, and where they are mapped is in no cache of the CPU: with pages
// of 4 KiB, 8 to a line of the page table, a miss for every 32 KiB that takes as long as storing 4
// KiB. One load, a line ahead of what is stored, brings it in time. To be asked for behind the
// store and not before it: a prefetch retires when it has its translation, and stores leave the CPU
// only when they have retired. 4 KiB writes, against none: 1.1 times as fast before, 1.2 behind.
// Longer ones gained nothing.
[[gnu::always_inline]] inline void prefetch_mapping(const RequestContext& ctx, MediaOff at,
                                                    uint32_t len_bytes) {
  constexpr uint64_t kTableLineBytes = 8 * kPageBytes;
  const uint64_t end = at.v + len_bytes;
  if (at.v / kTableLineBytes != end / kTableLineBytes)
    ctx.pmem.prefetch(MediaOff{(at.v / kTableLineBytes + 2) * kTableLineBytes});
}

[[gnu::always_inline]] inline Part store_part(RequestContext& ctx, uint64_t off, CachePos pos,
                                              uint32_t len_bytes, const void* from) {
  const SegmentTable::View seg = ctx.segments.view(pos.seg);
  const MediaOff at = seg.media(pos.off);
  if (!ctx.pmem.store(at, from, len_bytes)) [[unlikely]]
    return {off, 0, pos.seg.v, pos.off, 0, 0};
  prefetch_mapping(ctx, at, len_bytes);
  const uint32_t crc = ctx.data_crc ? data_crc32c(from, len_bytes) : 0;
  return {off, len_bytes, pos.seg.v, pos.off, crc, seg.generation()};
}

// Into the index and the open kset; the reference of its place goes over to the key. `unfenced_by`:
// the caller, if it has not fenced the data and the stripe leans to it; else kNobody. False: no
// memory, nothing is changed. In `ticket` the kset that became full, if one did: to be committed
// when the lock is dropped.
[[gnu::always_inline]] inline bool enter_part(RequestContext& ctx, Stripe& stripe, const Part& part,
                                              ThreadSerial unfenced_by, KeyLog::Ticket* ticket)
    REQUIRES(stripe.mu, index_turn) {
  // What is in the index must have its key.
  if (!ctx.stripes.prepare(stripe)) [[unlikely]]
    return false;
  if (!ctx.index.insert({part.off, part.len}, Location{part.pos(), false, part.crc})) [[unlikely]]
    return false;
  if (unfenced_by != KsetBuffer::kNobody) ctx.stripes.leave_unfenced(stripe, unfenced_by);
  const auto full = ctx.stripes.append_made(stripe, [&] {
    return ctx.make_key({part.off, part.len}, part.pos(), part.gen, false, part.crc);
  });
  if (full != 0) [[unlikely]]
    *ticket = full;
  return true;
}

// Makes the ksets up to `ticket` durable, which became full. A full log is no error of a plain
// write: the ksets stay queued, and whoever has to make them durable commits again.
inline void commit_full(RequestContext& ctx, KeyLog::Ticket ticket) {
  if (ticket == 0) [[likely]]
    return;
  const Status committed = ctx.log.commit(ticket);
  (void)committed;
}

// Does a write that needs one key and one place. False: it needs more, or there is no place, and
// nothing is done; write_data() does it then.
[[gnu::always_inline]] inline bool write_one(RequestContext& ctx, DataHead& head, uint64_t off,
                                             uint64_t len_bytes, const void* from) {
  if (hazard(Hazard::kTrimmedTooEarly)) {
    StripeLock lock(ctx.stripes.of(off));
    (void)ctx.index.erase({off, ctx.key_len(off, len_bytes)});
  }
  if (!ctx.is_one_key(off, len_bytes)) return false;
  ctx.index.prefetch(off);  // is there by the time the data is stored
  const auto len = static_cast<uint32_t>(len_bytes);
  CachePos pos;
  if (!head.allocate_whole(len, &pos)) [[unlikely]]
    return false;
  const Part part = store_part(ctx, off, pos, len, from);
  if (part.len == 0) [[unlikely]] {
    ctx.give_up_place(head, pos.seg);
    return false;
  }
  KeyLog::Ticket ticket = 0;
  bool entered;
  {
    Stripe& stripe = ctx.stripes.of(off);
    StripeLock lock(stripe, [&] { ctx.pmem.fence(); });
    entered = enter_part(ctx, stripe, part, lock.by_bias(), &ticket);
  }
  if (!entered) [[unlikely]]
    ctx.segments.drop_refs(SegId{part.seg});
  commit_full(ctx, ticket);
  return entered;
}

}  // namespace pcache
