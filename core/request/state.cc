// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/state.h"

namespace pcache {

RequestState::RequestState(const Parts& parts, uint32_t heads) : parts_(parts) {
  for (uint32_t i = 0; i < heads; i++) heads_.push_back(std::make_unique<DataHead>(parts.segments));
}

DataHead& RequestState::next_head() {
  PCACHE_CHECK(!heads_.empty());
  return *heads_[next_head_.fetch_add(1, std::memory_order_relaxed) % heads_.size()];
}

}  // namespace pcache
