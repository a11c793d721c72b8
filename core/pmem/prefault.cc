// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/prefault.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <system_error>

#include "base/check.h"
#include "base/ids.h"
#include "base/signals_blocked.h"
#include "pmem/checked_copy.h"

namespace pcache {

namespace {

// Takes some 16 ms: so long may a close wait, or a mmap() of another thread. Memory mapped in
// pieces of 4 MiB stayed slower: 4 KiB random writes at 0.88 to 0.94 of the speed (n 20, three
// times), with 64 MiB as fast as in one piece; the reason is not known.
constexpr uint64_t kPieceBytes = 64 << 20;

}  // namespace

Prefault::~Prefault() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
}

void Prefault::run() {
  PCACHE_DCHECK(reinterpret_cast<uintptr_t>(base_) % kPageBytes == 0);  // else madvise() refuses it
  install_checked_copy_handler();
  uint64_t mapped = 0;
  while (mapped < size_ && !stop_.load(std::memory_order_relaxed)) {
    const uint64_t end = std::min(size_, mapped + kPieceBytes);
    if (madvise(base_ + mapped, end - mapped, MADV_POPULATE_WRITE) != 0) break;
    mapped = end;
  }
  read_pages(mapped);
}

// When all are mapped: a hypervisor that keeps page tables of its own forgets the pages that were
// read before the guest maps more (of 2 GiB mapped and read in pieces, the first writes took as
// long as if nothing had been read). What a bad page holds does not matter here, nor that it is
// one.
void Prefault::read_pages(uint64_t end) {
  for (uint64_t at = 0; at < end && !stop_.load(std::memory_order_relaxed); at += kPageBytes) {
    std::byte ignored;
    (void)checked_copy(&ignored, base_ + at, 1);
    pages_read_.fetch_add(1, std::memory_order_relaxed);
  }
}

void Prefault::start() {
  PCACHE_CHECK(!thread_.joinable());
  const SignalsBlocked blocked;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {
    // Without a thread page faults make the pages.
  } catch (const std::bad_alloc&) {
    // As above.
  }
}

}  // namespace pcache
