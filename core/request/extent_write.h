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

#include "parts/stored_extent.h"

namespace pcache {

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
    entered = enter_extent(parts, stripe, stored, 0, lock.by_bias(), &ticket);
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

// Enters all of `stored` under keys with these flags, or gives the places of the rest back. Returns
// 0, -ENOMEM, or -ENOSPC: the log has no room now; what is entered is added to `entered_bytes`.
int enter_extents(const Parts& parts, std::span<const StoredExtent> stored, uint32_t key_flags,
                  uint64_t* entered_bytes);

// The data of a write of any length: stored and entered; every later read sees it. 0 or a negative
// errno (-ENOSPC: no segment is free now; -EIO: none ever will be), with what is done added to
// `done_bytes` in any case.
int write_extents(const Parts& parts, DataHead& head, Extent todo, const std::byte* from,
                  uint64_t* done_bytes);

}  // namespace pcache
