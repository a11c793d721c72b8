// SPDX-License-Identifier: GPL-2.0-or-later
// Image: a formatted cache in memory. A test writes its media records by hand, impossible ones,
// too. The segment chain is 0, 1, 2, ... One thread.
#pragma once

#include <string>
#include <vector>

#include "format/layout.h"
#include "segment/format_device.h"
#include "segment/segment_table.h"
#include "testing/memory_pmem.h"
#include "testing/shortage/failing_memory.h"

namespace pcache {

// The size of a device with room for exactly so many segments.
inline uint64_t device_bytes(uint32_t segments) {
  return media::kSegmentsOff + segments * media::kSegmentBytes;
}

// A key that every check accepts, if the backing device is large enough.
media::Key make_key(Extent extent, CachePos data, uint64_t gen = 0, uint32_t flags = 0);

class Image {
 public:
  explicit Image(uint32_t segments, const FormatOptions& options = {});

  MemoryPmem& memory() { return memory_; }
  Pmem& pmem() { return memory_.pmem(); }
  // `physical` and SegId are the same here.
  MediaOff off(CachePos pos) const { return segment_data_off(pos.seg.v) + pos.off; }
  std::vector<uint32_t> chain() const;
  std::unique_ptr<SegmentTable> table(uint32_t log_reserve = 2) {
    return table(pmem(), log_reserve);
  }
  std::unique_ptr<SegmentTable> table(Pmem& pmem, uint32_t log_reserve = 2) const;

  // A valid kset at `at`; returns the place behind it.
  CachePos kset(CachePos at, const std::vector<media::Key>& keys, uint64_t flags = 0);
  // `n` keys of one sector each, at logical sectors 0, 1, ...
  CachePos kset_of(CachePos at, uint32_t n, SegId data = SegId{1});
  CachePos last(CachePos at, SegId next);
  void clear_header(CachePos at) { memory_.poke(off(at), media::KsetHeader{}); }
  void key_tail(CachePos pos);
  void dirty_tail(CachePos pos);
  void generation(SegId seg, uint64_t gen);

 private:
  MemoryPmem memory_;
  const uint32_t segments_;
};

// Collects log messages.
struct LogLines {
  std::vector<std::string> lines;
  Log log() {
    return Log([this](LogLevel, const char* line) {
      const PassAllocations pass;
      lines.push_back(line);
    });
  }
};

}  // namespace pcache
