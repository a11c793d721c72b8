// SPDX-License-Identifier: GPL-2.0-or-later
// The index's state per 4 MiB range (Shard) and per stripe (Stripe), and the memory order of the
// sequence counter.
//
// The sequence protocol is written with release stores and acquire loads on every shared word, not
// with fences: a reader that saw any store of a change (release) loads seq after it (acquire) and
// so sees at least the odd value stored before. On x86 that costs nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/ids.h"
#include "index/arena.h"
#include "index/slot.h"

namespace pcache::index_impl {

using Word = std::atomic<uint64_t>;

struct alignas(64) Shard {
  static constexpr uint32_t kBlocks = kRangeBytes / (kPageBytes * kSlotsPerBlock);

  // Odd while a change is under way. It counts on when the shard is reused for another range, so
  // that a reader with an old handle notices.
  std::atomic<uint64_t> seq;
  Word link;             // the arena's
  uint32_t used_blocks;  // guarded by the stripe lock
  // Handles of the page blocks, 32 KiB each; 0: nothing there.
  alignas(64) std::atomic<uint32_t> block[kBlocks];

  uint64_t open() {
    const uint64_t s = seq.load(std::memory_order_relaxed);
    PCACHE_DCHECK(s % 2 == 0);
    seq.store(s + 1, std::memory_order_relaxed);
    return s;
  }
  void close(uint64_t opened) { seq.store(opened + 2, std::memory_order_release); }
};
static_assert(sizeof(Shard) == 576 && offsetof(Shard, link) == 8 && offsetof(Shard, block) == 64);

// Guarded by the stripe's lock, which the caller holds; the counters may be read without it.
struct alignas(64) Stripe {
  Arena::Pool blocks;
  Arena::Pool shards;
  std::atomic<uint64_t> mapped_sectors{0};
  std::atomic<uint64_t> dirty_sectors{0};  // of these
  std::atomic<uint64_t> memory_bytes{0};

  // One writer at a time: no locked instruction needed.
  static void add(std::atomic<uint64_t>& counter, int64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + static_cast<uint64_t>(n),
                  std::memory_order_relaxed);
  }
};
static_assert(sizeof(Stripe) == 64);

// Orders plain loads (the caller's copy of the cached data) before the loads that follow.
inline void load_barrier() {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"  // not modelled by tsan; the words themselves are atomics
#endif
  std::atomic_thread_fence(std::memory_order_acquire);
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

}  // namespace pcache::index_impl
