// SPDX-License-Identifier: GPL-2.0-or-later
// Ahead: what a request will need of memory, asked of the CPU while earlier ones are served. Where
// data is in the cache is found over several lines, each named by the one before, and then the data
// itself is read: a request alone waits for one after the other, a batch for none of them.
//
// Invariants
// - Prefetches alone: what it finds may be out of date, and nothing is done by it. So it takes no
//   lock, confirms nothing, and any thread may call it for any request.
#pragma once

#include "parts/parts.h"
#include "pcache.h"
#include "request/state.h"

namespace pcache {

class Ahead {
 public:
  explicit Ahead(const RequestState& cache) : parts_(cache.parts()), end_(cache.logical_bytes()) {}

  // How many requests before a request's turn each of its steps is to come. Each reads what the one
  // before has fetched.
  static constexpr size_t kShard = 16, kSlot = 8, kData = 2;

  void shard(const pcache_request& request) const {
    if (is_looked_up(request)) parts_.index.prefetch_shard(request.off);
  }
  void slot(const pcache_request& request) const {
    if (is_looked_up(request)) parts_.index.prefetch(request.off);
  }
  // The front of a read's data, as much as a copy has in flight.
  void data(const pcache_request& request) const {
    Index::Page page;
    Index::Snapshot unused;
    if (request.op != PCACHE_OP_READ || !is_looked_up(request) ||
        !parts_.index.find_page(request.off, &page, &unused))
      return;
    const CachePos pos = page.slot.pos();
    const uint32_t in_page = request.off % kPageBytes;
    const MediaOff at{parts_.segments.view(pos.seg).media(pos.off).v + in_page};
    parts_.pmem.prefetch(at, std::min<uint64_t>(request.len, kPageBytes - in_page));
  }

 private:
  // Nobody has checked the request yet.
  bool is_looked_up(const pcache_request& request) const {
    return request.op <= PCACHE_OP_WRITE && request.off < end_;
  }

  const Parts& parts_;
  const uint64_t end_;  // no request is taken from there on
};

}  // namespace pcache
