// SPDX-License-Identifier: GPL-2.0-or-later
// Brings data into the cache, by extents that one key names: stores it at a place of a data head,
// then enters it into the index and its stripe's open kset. Writes use all of it, fills store by
// it.
//
// A writer fences the data before it enters the extent. If the stripe is biased to the writer, it
// leaves the fence to whoever commits the kset, or revokes the bias (stripes.h). Nobody holds a
// lock while data is stored.
//
// The first half is inlined: it is most of what a short write costs beside the copy.
#pragma once

#include <span>

#include "base/crc32c.h"
#include "parts/parts.h"
#include "segment/data_head.h"

namespace pcache {

// The part of a range that one key may cover: to its 4 MiB boundary, no longer than an extent may
// be; what is longer is cut where pages end.
inline uint32_t extent_len(const Parts& parts, uint64_t off, uint64_t len_bytes) {
  const uint64_t to_boundary = kRangeBytes - off % kRangeBytes;
  const uint64_t len = len_bytes < to_boundary ? len_bytes : to_boundary;
  const uint32_t most = parts.max_extent_bytes;
  PCACHE_DCHECK(len > 0 && most > 0);
  return static_cast<uint32_t>(len <= most ? len : most - off % most);
}
inline bool is_one_extent(const Parts& parts, uint64_t off, uint64_t len_bytes) {
  return off % kRangeBytes + len_bytes <= kRangeBytes && len_bytes <= parts.max_extent_bytes;
}

// Of data in the segment's present life, `gen`.
inline media::Key make_key(Extent extent, CachePos pos, uint64_t gen, bool clean, uint32_t crc) {
  media::Key key{};
  key.off = extent.off;
  key.len = static_cast<uint32_t>(extent.len);
  key.flags = clean ? media::kKeyClean : 0;
  key.cache_seg_id = pos.seg.v;
  key.cache_seg_off = pos.off;
  key.seg_gen = gen;
  key.data_crc = crc;
  return key;
}

// What is stored and has no key yet. Flat: of structs in structs the compiler keeps copies in
// memory.
struct StoredExtent {
  uint64_t off;           // of the backing device
  uint32_t len;           // 0: its place has a bad page
  uint32_t seg, seg_off;  // its place
  uint32_t crc;
  uint64_t gen;  // of its segment, which stays in this life while a place in it
                 // has no key

  Extent extent() const { return {off, len}; }
  CachePos pos() const { return {SegId{seg}, seg_off}; }
};

// A head stores to pages that it has not touched before, so their page-table entries are in no
// cache of the CPU. With pages of 4 KiB, 8 entries to a line, each 32 KiB costs a miss, which takes
// as long as storing 4 KiB. One load, a line ahead, hides it. It comes behind the store: a prefetch
// retires when it has its translation, and stores leave the CPU only when they have retired. With
// the load 4 KiB writes are 1.2 times as fast; with a load before the store 1.1 times. Longer
// writes gain nothing.
[[gnu::always_inline]] inline void prefetch_mapping(const Parts& parts, MediaOff at,
                                                    uint32_t len_bytes) {
  constexpr uint64_t kTableLineBytes = 8 * kPageBytes;
  const uint64_t end = at.v + len_bytes;
  if (at.v / kTableLineBytes != end / kTableLineBytes)
    parts.pmem.prefetch(MediaOff{(at.v / kTableLineBytes + 2) * kTableLineBytes});
}

[[gnu::always_inline]] inline StoredExtent store_extent(const Parts& parts, uint64_t off,
                                                        CachePos pos, uint32_t len_bytes,
                                                        const void* from) {
  PCACHE_DCHECK(pos.off + uint64_t{len_bytes} <= media::kSegDataBytes);
  const SegmentTable::View seg = parts.segments.view(pos.seg);
  const MediaOff at = seg.media(pos.off);
  if (!parts.pmem.store(at, from, len_bytes)) [[unlikely]]
    return {off, 0, pos.seg.v, pos.off, 0, 0};
  prefetch_mapping(parts, at, len_bytes);
  const uint32_t crc = parts.data_crc ? data_crc32c(from, len_bytes) : 0;
  return {off, len_bytes, pos.seg.v, pos.off, crc, seg.generation()};
}

// A store to a place in `seg` was lost: no key will name it, and no more of its segment is handed
// out.
[[gnu::cold, gnu::noinline]] inline void give_up_place(const Parts& parts, DataHead& head,
                                                       SegId seg) {
  parts.segments.retire(seg);
  head.leave(seg);
  parts.segments.drop_refs(seg);
}

// Into the index and the open kset; the reference of its place goes over to the key. `unfenced_by`:
// the caller, if it has not fenced the data and the stripe is biased to it; else kNobody. False: no
// memory, nothing is changed. In `ticket` the kset that became full, if one did: to be committed
// when the lock is dropped.
[[gnu::always_inline]] inline bool enter_extent(const Parts& parts, Stripe& stripe,
                                                const StoredExtent& stored,
                                                ThreadSerial unfenced_by, KeyLog::Ticket* ticket)
    REQUIRES(stripe.mu, index_turn) {
  PCACHE_DCHECK(stored.len > 0 && is_one_extent(parts, stored.off, stored.len));
  PCACHE_DCHECK(stored.seg_off + uint64_t{stored.len} <= media::kSegDataBytes);
  // What is in the index must have its key.
  if (!parts.stripes.prepare(stripe)) [[unlikely]]
    return false;
  if (!parts.index.insert({stored.off, stored.len}, Location{stored.pos(), false, stored.crc}))
      [[unlikely]]
    return false;
  if (unfenced_by != KsetBuffer::kNobody) parts.stripes.leave_unfenced(stripe, unfenced_by);
  const auto full = parts.stripes.append_made(stripe, [&] {
    return make_key({stored.off, stored.len}, stored.pos(), stored.gen, false, stored.crc);
  });
  if (full != 0) [[unlikely]]
    *ticket = full;
  return true;
}

// Makes the ksets up to `ticket` durable, which became full. A full log is no error of a plain
// write: the ksets stay queued, and whoever has to make them durable commits again.
inline void commit_full(const Parts& parts, KeyLog::Ticket ticket) {
  if (ticket == 0) [[likely]]
    return;
  const Status committed = parts.log.commit(ticket);
  (void)committed;
}

// Does a write that needs one extent and one place. False: it needs more, or there is no place, and
// nothing is done; write_extents() does it then.
[[gnu::always_inline]] inline bool write_extent(const Parts& parts, DataHead& head, uint64_t off,
                                                uint64_t len_bytes, const void* from) {
  if (!is_one_extent(parts, off, len_bytes)) return false;
  parts.index.prefetch(off);  // is there by the time the data is stored
  const auto len = static_cast<uint32_t>(len_bytes);
  CachePos pos;
  if (!head.allocate_whole(len, &pos)) [[unlikely]]
    return false;
  const StoredExtent stored = store_extent(parts, off, pos, len, from);
  if (stored.len == 0) [[unlikely]] {
    give_up_place(parts, head, pos.seg);
    return false;
  }
  KeyLog::Ticket ticket = 0;
  bool entered;
  {
    Stripe& stripe = parts.stripes.of(off);
    StripeLock lock(stripe, [&] { parts.pmem.fence(); });
    entered = enter_extent(parts, stripe, stored, lock.by_bias(), &ticket);
  }
  if (!entered) [[unlikely]]
    parts.segments.drop_refs(SegId{stored.seg});
  commit_full(parts, ticket);
  return entered;
}

inline constexpr size_t kMostStored = 16;  // under one fence

// The front of a range stored, not fenced and not entered, as extents.
struct Stored {
  size_t extents = 0;
  uint64_t bytes = 0;
  uint32_t lost = 0;  // stores, each of which has retired its segment
};
// As far as there is room, and as `out` holds.
Stored store_extents(const Parts& parts, DataHead& head, Extent todo, const std::byte* from,
                     std::span<StoredExtent> out);

// The data of a write of any length: stored and entered; every later read sees it. 0 or a negative
// errno (-ENOSPC: no segment is free now; -EIO: none ever will be), with what is done added to
// `done_bytes` in any case.
int write_extents(const Parts& parts, DataHead& head, Extent todo, const std::byte* from,
                  uint64_t* done_bytes);

}  // namespace pcache
