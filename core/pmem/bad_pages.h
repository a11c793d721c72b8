// SPDX-License-Identifier: GPL-2.0-or-later
// BadPages: the pages of a mapping to which a store was lost, because the media is bad there or the
// file was cut under the mapping.
//
// Invariants
// - A noted page stays noted while the object lives: its content may be anything.
// - A signal handler notes pages, so noting takes no lock and no memory.
// Any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/growing_size.h"
#include "base/reservation.h"

namespace pcache {

class BadPages {
 public:
  // For this mapping, with a bit for each page, and for what may come behind it, up to
  // `most_bytes`. Throws std::bad_alloc.
  BadPages(const std::byte* base, uint64_t size_bytes, uint64_t most_bytes);
  ~BadPages();
  BadPages(const BadPages&) = delete;
  BadPages& operator=(const BadPages&) = delete;

  // The mapping has so many bytes from now on. ENOMEM. One thread at a time.
  Status grow(uint64_t size_bytes);

  // Whether a store was ever lost in this process: one load, and mostly the only check.
  static bool any() { return any_.load(std::memory_order_relaxed); }

  // The offset of the first noted page that overlaps the `len_bytes` from `off` on.
  std::optional<uint64_t> first_in(uint64_t off, uint64_t len_bytes) const;
  bool contain(uint64_t off, uint64_t len_bytes) const {
    return first_in(off, len_bytes).has_value();
  }
  uint64_t count() const { return count_.load(std::memory_order_relaxed); }

  // Notes the pages of `len_bytes` from `at` on in every mapping that has them. False: none has.
  // Called by a signal handler, and by code that simulates bad pages.
  static bool note(uintptr_t at, uint64_t len_bytes);

 private:
  struct Range;
  void note_here(uintptr_t at, uint64_t len_bytes);

  [[gnu::visibility("hidden")]] static std::atomic<bool> any_;
  static std::atomic<Range*> ranges_;

  const uintptr_t base_;
  GrowingSize size_;
  Reservation memory_;
  std::atomic<uint64_t>* bits_ = nullptr;  // in memory_
  std::atomic<uint64_t> count_{0};
  Range* range_ = nullptr;
};

}  // namespace pcache
