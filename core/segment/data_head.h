// SPDX-License-Identifier: GPL-2.0-or-later
// DataHead: hands out places for data, front to back in one segment after the other.
//
// Invariants
// - A place is handed out once in a segment's life. It carries one reference to its segment, which
//   passes to the key that names it, or is given back with drop_refs().
// - A head holds its segment (a bias on its references) from taking it until it is full, so a
//   segment cannot be freed under a place that no key names yet.
// Any thread.
#pragma once

#include <optional>

#include "base/mutex.h"
#include "segment/segment_table.h"

namespace pcache {

struct Place {
  CachePos pos;
  uint32_t len = 0;
};

class DataHead {
 public:
  explicit DataHead(SegmentTable& segments) : segments_(segments) {}
  ~DataHead();

  // Up to `len_bytes` (a multiple of 512), fewer at a segment's end. Nothing: no segment is free.
  std::optional<Place> allocate(uint32_t len_bytes);

 private:
  SegmentTable& segments_;
  Mutex mu_;
  std::optional<SegId> seg_ GUARDED_BY(mu_);
  uint32_t off_ GUARDED_BY(mu_) = 0;
  int64_t keys_ GUARDED_BY(mu_) = 0;
};

}  // namespace pcache
