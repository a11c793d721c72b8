// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/reservation.h"

#include <sys/mman.h>

#include <new>
#include <utility>

#include "base/check.h"

namespace pcache {

Reservation::~Reservation() { unmap(); }

void Reservation::unmap() {
  if (mapping_ != nullptr) munmap(std::exchange(mapping_, nullptr), mapping_bytes_);
  usable_bytes_ = 0;
}

uint64_t Reservation::in_pages(uint64_t bytes) const {
  return (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
}

Status Reservation::map(uint64_t bytes, uint64_t most_bytes, Pages pages, const char* what) {
  PCACHE_CHECK(mapping_ == nullptr && bytes > 0 && most_bytes >= bytes);
  pages_ = pages;
  what_ = what;
  most_bytes_ = in_pages(most_bytes);
  mapping_bytes_ = most_bytes_ + (pages == Pages::kHuge ? page_bytes() : 0);
  void* const p =
      mmap(nullptr, mapping_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    return error_errno(ENOMEM,
                       "cannot reserve %llu bytes of address space for %s; "
                       "raise the limit (ulimit -v) or vm.overcommit_memory",
                       static_cast<unsigned long long>(mapping_bytes_), what);
  mapping_ = p;
  const auto address = reinterpret_cast<uintptr_t>(p);
  base_ = static_cast<std::byte*>(p) + (in_pages(address) - address);
  return grow(bytes);
}

void Reservation::map(uint64_t bytes, uint64_t most_bytes, const char* what) {
  if (map(bytes, most_bytes, Pages::kSmall, what)) return;
  unmap();
  if (most_bytes != bytes && map(bytes, bytes, Pages::kSmall, what)) return;
  unmap();
  throw std::bad_alloc();
}

Status Reservation::grow(uint64_t bytes) {
  const uint64_t wanted = in_pages(bytes);
  if (wanted <= usable_bytes_) return {};
  if (wanted > most_bytes_)
    return make_error(EFBIG,
                      "%s has address space for %llu bytes, and needs %llu: attach the "
                      "cache again",
                      what_, static_cast<unsigned long long>(most_bytes_),
                      static_cast<unsigned long long>(wanted));
  std::byte* const added = base_ + usable_bytes_;
  const uint64_t added_bytes = wanted - usable_bytes_;
  if (mprotect(added, added_bytes, PROT_READ | PROT_WRITE) != 0)
    return error_errno(ENOMEM,
                       "no %llu bytes of memory for %s; raise the limit (ulimit -d) or "
                       "vm.overcommit_memory",
                       static_cast<unsigned long long>(added_bytes), what_);
  // Random access over many MiB is limited by TLB misses; without huge pages it is only slower.
  if (pages_ == Pages::kHuge) (void)madvise(added, added_bytes, MADV_HUGEPAGE);
  usable_bytes_ = wanted;
  return {};
}

}  // namespace pcache
