// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/trace_model.h"

#include <list>
#include <unordered_map>

namespace pcache::sweep {

namespace {

// The front is the next to go. A hit moves the block to the back, or not.
class Queue {
 public:
  Queue(uint64_t capacity, bool hits_move) : capacity_(capacity), hits_move_(hits_move) {}

  bool access(uint64_t block) {
    if (const auto at = places_.find(block); at != places_.end()) {
      if (hits_move_) blocks_.splice(blocks_.end(), blocks_, at->second);
      return true;
    }
    if (blocks_.size() == capacity_) {
      places_.erase(blocks_.front());
      blocks_.pop_front();
    }
    places_[block] = blocks_.insert(blocks_.end(), block);
    return false;
  }

 private:
  const uint64_t capacity_;
  const bool hits_move_;
  std::list<uint64_t> blocks_;
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> places_;
};

}  // namespace

TraceModel model_of(const TraceLayout& layout, uint64_t capacity) {
  Queue fifo(capacity, false), lru(capacity, true);
  uint64_t accesses = 0, fifo_hits = 0, lru_hits = 0;
  for (const Access& access : layout.trace().accesses) {
    const TraceLayout::Range blocks = layout.blocks_of(access);
    for (uint64_t block = blocks.off; block < blocks.off + blocks.len; block++) {
      accesses++;
      fifo_hits += fifo.access(block);
      lru_hits += lru.access(block);
    }
  }
  const auto part = [&](uint64_t hits) {
    return static_cast<double>(hits) / static_cast<double>(accesses);
  };
  return {part(fifo_hits), part(lru_hits)};
}

}  // namespace pcache::sweep
