// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/ghost_list.h"

#include "base/check.h"
#include "policy/page_hash.h"

namespace pcache::policy {

namespace {

// A slot: 31-16 tag, never 0 | 15-0 time in ticks, modulo 65536. 0: free.
// Time comes round after 16 reaches, when what was in a bucket has been replaced several times.
constexpr uint64_t kMostTicks = 4096;

uint32_t tag_of(uint64_t hash) {
  const uint32_t tag = hash >> 22 & 0xffff;
  return (tag == 0 ? 1 : tag) << 16;
}

constexpr uint64_t divided_up(uint64_t n, uint64_t by) { return (n + by - 1) / by; }

}  // namespace

GhostList::GhostList(uint64_t reach)
    : misses_per_tick_(divided_up(reach, kMostTicks)),
      reach_ticks_(static_cast<uint16_t>(reach / misses_per_tick_)),
      buckets_(divided_up(2 * reach, kSlots)),
      table_(std::make_unique<Bucket[]>(buckets_)) {
  PCACHE_CHECK(reach > 0);
}

bool GhostList::missed(uint64_t hash, uint64_t now) {
  const uint16_t time = time_of(now);
  const uint32_t tag = tag_of(hash);
  Bucket& bucket = table_[place_of(hash, buckets_)];
  std::atomic<uint32_t>* oldest = nullptr;
  uint32_t greatest_age = 0;
  for (auto& slot : bucket.slots) {
    const uint32_t was = slot.load(std::memory_order_relaxed);
    const uint16_t age = static_cast<uint16_t>(time - was);
    if ((was & 0xffff0000) == tag) {
      slot.store(tag | time, std::memory_order_relaxed);
      return age <= reach_ticks_;
    }
    const uint32_t rank = was == 0 ? UINT32_MAX : age;  // a free slot before all others
    if (oldest == nullptr || rank > greatest_age) {
      oldest = &slot;
      greatest_age = rank;
    }
  }
  oldest->store(tag | time, std::memory_order_relaxed);
  return false;
}

}  // namespace pcache::policy
