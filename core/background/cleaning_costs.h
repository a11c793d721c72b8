// SPDX-License-Identifier: GPL-2.0-or-later
// CleaningCosts: whether dirty data at dirty_tail is better moved to the log's head or written to
// the backing device, from what both have cost.
//
// Of a stretch of the log in which a share `live` of the data is not superseded, moving frees
// (1 - live) at the cost of copying `live`; writing frees all of it at the cost of writing `live`.
// One thread at a time.
#pragma once

#include <cstdint>

namespace pcache {

class CleaningCosts {
 public:
  // So long it took; 0 bytes change nothing.
  void wrote(uint64_t bytes, uint64_t ns) { device_.add(bytes, ns); }
  void moved(uint64_t bytes, uint64_t ns) { copy_.add(bytes, ns); }

  // Of a batch with that much data that is not superseded, of all its dirty data.
  bool moving_pays(uint64_t live_bytes, uint64_t all_bytes) const;

 private:
  // Bytes per nanosecond, mostly of the last kMemoryBytes.
  class Rate {
   public:
    void add(uint64_t bytes, uint64_t ns);
    bool known() const { return bytes_ > 0; }
    double value() const { return static_cast<double>(bytes_) / static_cast<double>(ns_); }

   private:
    static constexpr uint64_t kMemoryBytes = 64 << 20;
    uint64_t bytes_ = 0, ns_ = 0;
  };

  Rate device_, copy_;
};

}  // namespace pcache
