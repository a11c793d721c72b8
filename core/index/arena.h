// SPDX-License-Identifier: GPL-2.0-or-later
// Arena: objects of one size in one virtual reservation, named by 32-bit handles.
//
// Invariants
// - The reservation is never unmapped before the arena dies and an object is never used as another
//   type: a reader without a lock that follows a stale handle reads garbage, never unmapped memory.
// - The second 64-bit word of a free object is its link (top bits 0); its other words are as they
//   were left.
// - Handle 0 is none. Objects never used before are all zero.
// - A Pool belongs to one stripe and is guarded by that stripe's lock, which the caller holds; only
//   the arena's bump pointer is shared between stripes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/ids.h"
#include "base/reservation.h"
#include "base/result.h"

namespace pcache::index_impl {

class Arena {
 public:
  // Handles have 32 bits, and one past the last handle must fit, too.
  static constexpr uint64_t kMaxObjects = UINT32_MAX - 1;
  // What a pool takes at a time: a page's worth, since each stripe holds such a batch.
  static constexpr uint32_t batch(uint32_t object_bytes) {
    return object_bytes < kPageBytes ? kPageBytes / object_bytes : 1;
  }

  // The free objects of one stripe: those given back, and a batch that was never used yet.
  struct Pool {
    uint32_t free_head = 0;
    uint32_t free_count = 0;
    uint32_t next = 0;
    uint32_t limit = 0;
  };

  // The last objects of the reservation are for changes that cannot report an error.
  enum class Claim { kOrdinary, kFromReserve };

  Status create(uint64_t objects, uint64_t most_objects, uint32_t object_bytes, const char* what);
  // Room for `objects` in all. As Reservation::grow().
  Status grow(uint64_t objects);

  std::byte* base() const { return memory_.base(); }

  // Makes sure that the next `count` calls of take() on `pool` succeed. False: exhausted.
  bool ensure(Pool& pool, uint32_t count, Claim claim);
  uint32_t take(Pool& pool);
  void give(Pool& pool, uint32_t handle);

 private:
  std::atomic<uint64_t>& link(uint32_t handle) const;

  Reservation memory_;
  uint32_t object_bytes_ = 0;
  std::atomic<uint64_t> end_{0};  // one past the last handle
  uint64_t reserve_ = 0;
  std::atomic<uint64_t> bump_{1};
};

}  // namespace pcache::index_impl
