// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/state.h"

namespace pcache {

RequestState::RequestState(const Parts& parts, uint32_t heads) : parts_(parts) { set_heads(heads); }

void RequestState::set_heads(uint32_t heads) {
  PCACHE_CHECK(heads <= kMostHeads);
  for (uint32_t i = heads_made_.load(std::memory_order_relaxed); i < heads; i++) {
    heads_[i] = std::make_unique<DataHead>(parts_.segments, parts_.block_bytes);
    heads_made_.store(i + 1, std::memory_order_release);
  }
}

void RequestState::close_heads() {
  heads_made_.store(0, std::memory_order_relaxed);
  for (auto& head : heads_) head.reset();
}

DataHead& RequestState::next_head() {
  const uint32_t heads = heads_made_.load(std::memory_order_acquire);
  PCACHE_CHECK(heads > 0);
  return *heads_[next_head_.fetch_add(1, std::memory_order_relaxed) % heads];
}

}  // namespace pcache
