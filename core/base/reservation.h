// SPDX-License-Identifier: GPL-2.0-or-later
// Reservation: zeroed memory that costs nothing until it is touched. It grows in place, so who
// looks at it without a lock never sees it move: what may come is address space without access,
// which needs no memory and counts for no limit but that of address space.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace pcache {

class Reservation {
 public:
  enum class Pages { kSmall, kHuge };

  Reservation() = default;
  ~Reservation();
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  // Room for `bytes` now and `most_bytes` later. ENOMEM: no address space, or no memory.
  Status map(uint64_t bytes, uint64_t most_bytes, Pages pages, const char* what);
  // The same in small pages, and without room to grow where that is not to be had. Throws
  // std::bad_alloc.
  void map(uint64_t bytes, uint64_t most_bytes, const char* what);
  // For `bytes` from now on; never less. EFBIG: that is more than `most_bytes`; ENOMEM. One thread
  // at a time; others go on with what is there.
  Status grow(uint64_t bytes);
  std::byte* base() const { return base_; }

 private:
  uint64_t page_bytes() const { return pages_ == Pages::kHuge ? 2u << 20 : 4u << 10; }
  uint64_t in_pages(uint64_t bytes) const;
  void unmap();

  std::byte* base_ = nullptr;  // aligned to a page
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  uint64_t usable_bytes_ = 0, most_bytes_ = 0;  // from base_, in pages
  Pages pages_ = Pages::kSmall;
  const char* what_ = "";
};

}  // namespace pcache
