// SPDX-License-Identifier: GPL-2.0-or-later
// DataHead: hands out places for data, front to back in one segment after the other.
//
// Invariants
// - A place is handed out once in a segment's life. It carries one reference to its segment, which
//   passes to the key that names it, or is given back with drop_refs().
// - What is left of a segment with a bad page is not handed out: leave(); nor what is less than the
//   backing device can write, which is 4 KiB and less of all but few.
// - A head holds extra references to its segment until the segment is full, so the segment cannot
//   be freed under a place that no key names yet.
// Any thread.
#pragma once

#include "base/biased_mutex.h"
#include "segment/segment_table.h"

namespace pcache {

// len 0: no place.
struct Place {
  CachePos pos;
  uint32_t len = 0;
  explicit operator bool() const { return len != 0; }
};

class alignas(64) DataHead {  // own cache lines: each is another queue's
 public:
  // `block_bytes`: of the backing device, a power of two.
  DataHead(SegmentTable& segments, uint32_t block_bytes)
      : segments_(segments),
        seg_bytes_(static_cast<uint32_t>(media::kSegDataBytes) & ~(block_bytes - 1)) {}
  ~DataHead();

  // Up to `len_bytes` (a multiple of the device's block), fewer at a segment's end. No place: no
  // segment is free.
  Place allocate(uint32_t len_bytes) EXCLUDES(mu_) {
    PCACHE_DCHECK(len_bytes > 0 && len_bytes % kSectorBytes == 0);
    BiasedLock lock(mu_);
    if (len_bytes > left_ && !make_room()) [[unlikely]]
      return {};
    const uint32_t len = len_bytes < left_ ? len_bytes : left_;
    return {take(len), len};
  }
  // A place for all of `len_bytes`, or false: the segment has less room than that.
  [[gnu::always_inline]] bool allocate_whole(uint32_t len_bytes, CachePos* pos) EXCLUDES(mu_) {
    PCACHE_DCHECK(len_bytes > 0 && len_bytes % kSectorBytes == 0);
    BiasedLock lock(mu_);
    if (len_bytes > left_) [[unlikely]]
      return false;
    *pos = take(len_bytes);
    return true;
  }
  // Gives up the rest of `seg` if that is this head's segment, and goes on in another one.
  void leave(SegId seg) EXCLUDES(mu_);

 private:
  bool make_room() REQUIRES(mu_);
  [[gnu::always_inline]] CachePos take(uint32_t len_bytes) REQUIRES(mu_) {
    const CachePos pos = next_;
    PCACHE_DCHECK(filling_ && len_bytes <= left_);
    next_.off += len_bytes;
    left_ -= len_bytes;
    keys_++;
    return pos;
  }

  SegmentTable& segments_;
  const uint32_t seg_bytes_;         // handed out of each
  BiasedMutex mu_{LockRank::kPath};  // a head is mostly one queue's
  CachePos next_ GUARDED_BY(mu_);
  uint32_t left_ GUARDED_BY(mu_) = 0;  // behind next_, in its segment
  bool filling_ GUARDED_BY(mu_) = false;
  int64_t keys_ GUARDED_BY(mu_) = 0;
};

}  // namespace pcache
