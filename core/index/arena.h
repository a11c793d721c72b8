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

#include "base/result.h"

namespace pcache::index_impl {

// Zeroed memory that costs nothing until it is touched. It grows in place: what may come is address
// space without access, which needs no memory and counts for no limit but that of address space.
class Reservation {
 public:
  enum class Pages { kSmall, kHuge };

  Reservation() = default;
  ~Reservation();
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  // Room for `bytes` now and `most_bytes` later. ENOMEM: no address space, or no memory.
  Status map(uint64_t bytes, uint64_t most_bytes, Pages pages, const char* what);
  // For `bytes` from now on. EFBIG: that is more than `most_bytes`; ENOMEM. One thread at a time;
  // others go on with what is there.
  Status grow(uint64_t bytes);
  std::byte* base() const { return base_; }

 private:
  std::byte* base_ = nullptr;  // aligned to a huge page
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  uint64_t usable_bytes_ = 0, most_bytes_ = 0;  // from base_, in huge pages
  Pages pages_ = Pages::kSmall;
  const char* what_ = "";
};

class Arena {
 public:
  // Handles have 32 bits, and one past the last handle must fit, too.
  static constexpr uint64_t kMaxObjects = UINT32_MAX - 1;
  static constexpr uint32_t kBatch = 64;

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
