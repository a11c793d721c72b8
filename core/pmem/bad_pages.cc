// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/bad_pages.h"

#include <algorithm>
#include <bit>
#include <mutex>
#include <new>

#include "base/check.h"
#include "base/ids.h"

namespace pcache {

namespace {

constexpr uint64_t kWordPages = 64;

std::mutex g_ranges_mu;

// Zeros that take memory only when they are touched: the bits of a terabyte are 32 MiB.
uint64_t bytes_of_bits(uint64_t size_bytes) {
  const uint64_t pages = (size_bytes + kPageBytes - 1) / kPageBytes;
  return ((pages + kWordPages - 1) / kWordPages + 1) * sizeof(uint64_t);
}

}  // namespace

// Of all that the mapping may come to. Never freed, and only `owner` ever changes, so a handler may
// follow it at any time. A new mapping at the place of an earlier one uses the range of that one.
struct BadPages::Range {
  const uintptr_t begin, end;
  std::atomic<BadPages*> owner;
  Range* const next;
};

std::atomic<bool> BadPages::any_{false};
std::atomic<BadPages::Range*> BadPages::ranges_{nullptr};

BadPages::BadPages(const std::byte* base, uint64_t size_bytes, uint64_t most_bytes)
    : base_(reinterpret_cast<uintptr_t>(base)), size_(size_bytes) {
  PCACHE_CHECK(size_bytes <= most_bytes);
  memory_.map(bytes_of_bits(size_bytes), bytes_of_bits(most_bytes), "the table of bad pages");
  bits_ = reinterpret_cast<std::atomic<uint64_t>*>(memory_.base());
  const uintptr_t end = base_ + most_bytes;
  std::lock_guard lock(g_ranges_mu);
  Range* const first = ranges_.load(std::memory_order_relaxed);
  for (range_ = first; range_; range_ = range_->next)
    if (range_->begin == base_ && range_->end == end && !range_->owner.load()) break;
  if (range_) {
    range_->owner.store(this, std::memory_order_release);
    return;
  }
  range_ = new Range{base_, end, this, first};
  ranges_.store(range_, std::memory_order_release);
}

BadPages::~BadPages() {
  PCACHE_CHECK(range_->owner.load() == this);
  range_->owner.store(nullptr, std::memory_order_release);
}

Status BadPages::grow(uint64_t size_bytes) {
  auto grown = memory_.grow(bytes_of_bits(size_bytes));
  if (grown) size_.grow(size_bytes);
  return grown;
}

std::optional<uint64_t> BadPages::first_in(uint64_t off, uint64_t len_bytes) const {
  if (len_bytes == 0 || count() == 0) return std::nullopt;
  PCACHE_DCHECK(len_bytes <= size_ && off <= size_ - len_bytes);
  const uint64_t end = (off + len_bytes - 1) / kPageBytes + 1;
  for (uint64_t page = off / kPageBytes; page < end;) {
    const uint64_t word = bits_[page / kWordPages].load(std::memory_order_relaxed);
    const uint64_t rest = word >> page % kWordPages;
    if (rest != 0) {
      page += static_cast<uint64_t>(std::countr_zero(rest));
      return page < end ? std::optional(page * kPageBytes) : std::nullopt;
    }
    page = (page / kWordPages + 1) * kWordPages;
  }
  return std::nullopt;
}

bool BadPages::note(uintptr_t at, uint64_t len_bytes) {
  bool found = false;
  for (Range* range = ranges_.load(std::memory_order_acquire); range; range = range->next) {
    if (at >= range->end || at + len_bytes <= range->begin) continue;
    BadPages* const owner = range->owner.load(std::memory_order_acquire);
    if (!owner) continue;
    owner->note_here(at, len_bytes);
    found = true;
  }
  if (found) any_.store(true, std::memory_order_release);
  return found;
}

void BadPages::note_here(uintptr_t at, uint64_t len_bytes) {
  const uint64_t begin = at > base_ ? at - base_ : 0;
  const uint64_t end = std::min<uint64_t>(at + len_bytes - base_, size_);
  for (uint64_t page = begin / kPageBytes; page * kPageBytes < end; page++) {
    const uint64_t bit = uint64_t{1} << page % kWordPages;
    if (!(bits_[page / kWordPages].fetch_or(bit, std::memory_order_release) & bit))
      count_.fetch_add(1, std::memory_order_release);
  }
}

}  // namespace pcache
