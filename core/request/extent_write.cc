// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/extent_write.h"

#include <array>

namespace pcache {

namespace {

struct Entered {
  size_t extents = 0;
  uint64_t bytes = 0;
  bool no_buffer = false;  // for the key of the next one
};

// Enters extents from the front; all of them, or as far as there is memory.
Entered enter_front(const Parts& parts, std::span<const StoredExtent> stored, uint32_t key_flags) {
  bool fenced = false;
  const auto fence = [&] {
    if (!fenced) parts.pmem.fence();
    fenced = true;
  };
  KeyLog::Ticket ticket = 0;
  Entered done;
  bool entered = true;
  while (done.extents < stored.size() && entered) {
    Stripe& stripe = parts.stripes.of(stored[done.extents].off);
    StripeLock lock(stripe, fence);
    const ThreadSerial unfenced_by = fenced ? KsetBuffer::kNobody : lock.by_bias();
    while (done.extents < stored.size() && &parts.stripes.of(stored[done.extents].off) == &stripe &&
           (entered =
                enter_extent(parts, stripe, stored[done.extents], key_flags, unfenced_by, &ticket)))
      done.bytes += stored[done.extents++].len;
    done.no_buffer = !entered && stripe.kset == nullptr;
  }
  commit_full(parts, ticket);
  return done;
}

}  // namespace

// Open ksets hold buffers: who finds none commits the open ksets and uses theirs.
int enter_extents(const Parts& parts, std::span<const StoredExtent> stored, uint32_t key_flags,
                  uint64_t* entered_bytes) {
  // Other threads may take what has come free: then they go on, and in the end so do we.
  constexpr int kMostTries = 1000;
  int result = 0;
  for (int tries = 0; !stored.empty() && result == 0; tries++) {
    const Entered done = enter_front(parts, stored, key_flags);
    *entered_bytes += done.bytes;
    stored = stored.subspan(done.extents);
    if (stored.empty()) break;
    if (!done.no_buffer || tries == kMostTries)
      result = -ENOMEM;
    else if (const Status freed = parts.stripes.free_buffers(); !freed)
      result = -freed.error().code;
  }
  for (const StoredExtent& rest : stored) parts.segments.drop_refs(SegId{rest.seg});
  return result;
}

Stored store_extents(const Parts& parts, DataHead& head, Extent todo, const std::byte* from,
                     std::span<StoredExtent> out) {
  Stored done;
  while (done.bytes < todo.len && done.extents < out.size()) {
    const uint64_t off = todo.off + done.bytes;
    const Place place = head.allocate(extent_len(parts, off, todo.len - done.bytes));
    if (!place) break;
    StoredExtent& stored = out[done.extents];
    stored = store_extent(parts, off, place.pos, place.len, from + done.bytes);
    if (stored.len == 0) [[unlikely]] {
      give_up_place(parts, head, place.pos.seg);
      if (++done.lost > parts.segments.size()) break;
      continue;  // elsewhere
    }
    PCACHE_DCHECK(stored.len == place.len);
    done.bytes += place.len;
    done.extents++;
  }
  return done;
}

int write_extents(const Parts& parts, DataHead& head, Extent todo, const std::byte* from,
                  uint64_t* done_bytes) {
  while (todo.len > 0) {
    std::array<StoredExtent, kMostStored> stored;
    const Stored now = store_extents(parts, head, todo, from, stored);
    if (now.extents == 0) {
      const bool for_ever = now.lost > parts.segments.size() || parts.segments.exhausted_for_data();
      return for_ever ? -EIO : -ENOSPC;
    }
    uint64_t entered = 0;
    const int result = enter_extents(parts, {stored.data(), now.extents}, 0, &entered);
    PCACHE_CHECK(entered <= now.bytes && (result != 0 || entered == now.bytes));
    *done_bytes += entered;
    if (result) return result;
    todo.off += now.bytes;
    todo.len -= now.bytes;
    from += now.bytes;
  }
  return 0;
}

}  // namespace pcache
