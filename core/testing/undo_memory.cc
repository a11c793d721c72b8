// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/undo_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "base/check.h"

namespace pcache {

UndoMemory::UndoMemory(uint64_t size_bytes)
    : size_(size_bytes),
      base_(static_cast<std::byte*>(mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
  PCACHE_CHECK(base_ != MAP_FAILED);
}

UndoMemory::~UndoMemory() { munmap(base_, size_); }

void UndoMemory::write(uint64_t off, const void* bytes, size_t len_bytes) {
  PCACHE_CHECK(len_bytes <= size_ && off <= size_ - len_bytes);
  changes_.push_back({off, len_bytes});
  old_.insert(old_.end(), base_ + off, base_ + off + len_bytes);
  memcpy(base_ + off, bytes, len_bytes);
}

void UndoMemory::rollback(Mark mark) {
  PCACHE_CHECK(mark <= changes_.size());
  while (changes_.size() > mark) {
    const Change& change = changes_.back();
    memcpy(base_ + change.off, old_.data() + old_.size() - change.len, change.len);
    old_.resize(old_.size() - change.len);
    changes_.pop_back();
  }
}

}  // namespace pcache
