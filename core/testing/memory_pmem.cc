// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/memory_pmem.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace pcache {

namespace {

int make_base(uint64_t size_bytes) {
  const int fd = memfd_create("pcache-memory-pmem", MFD_CLOEXEC);
  PCACHE_CHECK(fd >= 0 && ftruncate(fd, static_cast<off_t>(size_bytes)) == 0);
  return fd;
}

std::byte* map_base(int fd, uint64_t size_bytes) {
  void* p = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
  PCACHE_CHECK(p != MAP_FAILED);
  return static_cast<std::byte*>(p);
}

}  // namespace

const PersistOps MemoryPmem::kOps = {
    "memory",           &MemoryPmem::copy,  &MemoryPmem::fence, [] { return true; },
    &MemoryPmem::fence, &MemoryPmem::flush,
};

MemoryPmem::MemoryPmem(uint64_t size_bytes, uint64_t most_bytes)
    : MemoryPmem(size_bytes, most_bytes, make_base(most_bytes)) {}

MemoryPmem::MemoryPmem(uint64_t size_bytes, uint64_t most_bytes, int base_fd)
    : size_(most_bytes),
      pmem_bytes_(size_bytes),
      base_fd_(base_fd),
      base_(map_base(base_fd, most_bytes)),
      pmem_(base_, most_bytes, &kOps, this) {}

MemoryPmem::~MemoryPmem() {
  munmap(base_, size_);
  close(base_fd_);
}

std::unique_ptr<Pmem> MemoryPmem::make_pmem() {
  return std::make_unique<Pmem>(base_, pmem_bytes_, &kOps, this, size_);
}

void MemoryPmem::poke(MediaOff off, const void* bytes, size_t len_bytes) {
  PCACHE_CHECK(len_bytes <= size_ && off.v <= size_ - len_bytes);
  memcpy(base_ + off.v, bytes, len_bytes);
  poked_.emplace_back(off.v, len_bytes);
}

void MemoryPmem::flip_bit(MediaOff off, unsigned bit) {
  poke(off, peek<std::byte>(off) ^ std::byte(1u << bit));
}

// A page behind the end of an empty file raises SIGBUS.
void MemoryPmem::map_empty(uint64_t page) {
  const int empty = memfd_create("pcache-bad-page", MFD_CLOEXEC);
  PCACHE_CHECK(mmap(base_ + page, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, empty,
                    0) != MAP_FAILED);
  close(empty);
}

void MemoryPmem::make_unreadable(MediaOff off) {
  const uint64_t page = off.v / kPageBytes * kPageBytes;
  map_empty(page);
  unreadable_.insert(page);
}

void MemoryPmem::make_bad(MediaOff off) {
  const uint64_t page = off.v / kPageBytes * kPageBytes;
  map_empty(page);
  bad_.insert(page);
}

template <typename Visit>
void MemoryPmem::each_good_part(uint64_t off, uint64_t len, Visit visit) const {
  if (bad_.empty()) return visit(off, len);
  for (const uint64_t end = off + len; off < end;) {
    const uint64_t page = off / kPageBytes * kPageBytes;
    const uint64_t n = std::min(page + kPageBytes, end) - off;
    if (!bad_.contains(page)) visit(off, n);
    off += n;
  }
}

void MemoryPmem::store_good_part(uint64_t off, const std::byte* src, uint64_t len) {
  for (const uint64_t page : bad_)
    if (page < off + len && off < page + kPageBytes)
      BadPages::note(reinterpret_cast<uintptr_t>(base_ + page), kPageBytes);
  each_good_part(off, len,
                 [&](uint64_t at, uint64_t n) { memcpy(base_ + at, src + (at - off), n); });
}

// A store to real pmem also removes its poison.
void MemoryPmem::mend(uint64_t off, uint64_t len) {
  for (auto it = unreadable_.begin(); it != unreadable_.end();) {
    if (*it >= off + len || off >= *it + kPageBytes) {
      ++it;
      continue;
    }
    PCACHE_CHECK(mmap(base_ + *it, kPageBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
    it = unreadable_.erase(it);
  }
}

void MemoryPmem::forbid_stores() { PCACHE_CHECK(mprotect(base_, size_, PROT_READ) == 0); }
void MemoryPmem::allow_stores() {
  PCACHE_CHECK(mprotect(base_, size_, PROT_READ | PROT_WRITE) == 0);
}

void MemoryPmem::checkpoint() {
  for (const PmemEvent& event : journal_)
    if (!event.fence) poked_.emplace_back(event.off.v, event.bytes.size());
  for (const auto& [off, len] : poked_)
    each_good_part(off, len, [this](uint64_t at, size_t n) {
      PCACHE_CHECK(pwrite(base_fd_, base_ + at, n, static_cast<off_t>(at)) ==
                   static_cast<ssize_t>(n));
    });
  poked_.clear();
  journal_.clear();
  has_killed_ = false;
}

std::unique_ptr<MemoryPmem> MemoryPmem::crash_image(std::span<const KeptStore> kept) const {
  PCACHE_CHECK(poked_.empty());
  std::unique_ptr<MemoryPmem> image(
      new MemoryPmem(size_, size_, fcntl(base_fd_, F_DUPFD_CLOEXEC, 0)));
  for (const KeptStore& store : kept)
    memcpy(image->base_ + store.off.v, store.bytes.data(), store.bytes.size());
  return image;
}

void MemoryPmem::copy(void* self, std::byte* dst, const void* src, size_t len_bytes) {
  auto* memory = static_cast<MemoryPmem*>(self);
  if (memory->on_store_) memory->on_store_(len_bytes);
  const MediaOff off{static_cast<uint64_t>(dst - memory->base_)};
  auto* bytes = static_cast<const std::byte*>(src);
  if (!memory->recording_) {
    memory->store_good_part(off.v, bytes, len_bytes);
    return;
  }
  std::lock_guard lock(memory->mu_);
  if (!memory->unreadable_.empty()) memory->mend(off.v, len_bytes);
  memory->store_good_part(off.v, bytes, len_bytes);
  bool unflushed = false;
#ifdef PCACHE_MUTANTS
  unflushed = mutants::unflushed();
#endif
  memory->journal_.push_back({false, unflushed, off, {bytes, bytes + len_bytes}, 0, false});
}

void MemoryPmem::kill_process() {
  PmemEvent& event = journal_.emplace_back();
  event.killed = true;
  has_killed_ = true;
}

void MemoryPmem::flush(void* self, const std::byte* at, size_t len_bytes) {
  auto* memory = static_cast<MemoryPmem*>(self);
  if (!memory->recording_ || !memory->has_killed_) return;
  std::lock_guard lock(memory->mu_);
  PmemEvent& event = memory->journal_.emplace_back();
  event.off = MediaOff{static_cast<uint64_t>(at - memory->base_)};
  event.flushed_bytes = len_bytes;
}

void MemoryPmem::fence(void* self) {
  auto* memory = static_cast<MemoryPmem*>(self);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (!memory->recording_) return;
  std::lock_guard lock(memory->mu_);
  memory->journal_.push_back({true, false, {}, {}, 0, false});
}

}  // namespace pcache
