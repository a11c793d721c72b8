// SPDX-License-Identifier: GPL-2.0-or-later
// An extent on its way into the cache: its data is stored at a place of a data head, then it enters
// the index and its stripe's open kset. Requests, and background work that moves data, both go this
// way.
#pragma once

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

// Zeros are not copied, nor moved: their extents may be longer.
inline bool is_one_key(const Parts& parts, uint64_t off, uint64_t len_bytes, uint32_t flags) {
  return flags & media::kKeyZeros ? off % kRangeBytes + len_bytes <= kRangeBytes
                                  : is_one_extent(parts, off, len_bytes);
}

// Of data in the segment's present life, `gen`.
inline media::Key make_key(Extent extent, CachePos pos, uint64_t gen, uint32_t flags,
                           uint32_t crc) {
  media::Key key{};
  key.off = extent.off;
  key.len = static_cast<uint32_t>(extent.len);
  key.flags = flags;
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

// Into the index and the open kset; the reference of its place goes over to the key, which gets
// these flags: 0 is dirty data. `unfenced_by`:
// the caller, if it has not fenced the data and the stripe is biased to it; else kNobody. False: no
// memory, nothing is changed. In `ticket` the kset that became full, if one did: to be committed
// when the lock is dropped.
[[gnu::always_inline]] inline bool enter_extent(const Parts& parts, Stripe& stripe,
                                                const StoredExtent& stored, uint32_t flags,
                                                ThreadSerial unfenced_by, KeyLog::Ticket* ticket)
    REQUIRES(stripe.mu, index_turn) {
  PCACHE_DCHECK(stored.len > 0 && is_one_key(parts, stored.off, stored.len, flags));
  PCACHE_DCHECK(stored.seg_off + uint64_t{stored.len} <= media::kSegDataBytes);
  // What is in the index must have its key.
  if (!parts.stripes.prepare(stripe)) [[unlikely]]
    return false;
  if (!parts.index.insert({stored.off, stored.len},
                          Location{stored.pos(), (flags & media::kKeyClean) != 0, stored.crc,
                                   (flags & media::kKeyZeros) != 0})) [[unlikely]]
    return false;
  if (unfenced_by != KsetBuffer::kNobody) parts.stripes.leave_unfenced(stripe, unfenced_by);
  const auto full = parts.stripes.append_made(stripe, [&] {
    return make_key({stored.off, stored.len}, stored.pos(), stored.gen, flags, stored.crc);
  });
  if (full != 0) [[unlikely]]
    *ticket = full;
  return true;
}

}  // namespace pcache
