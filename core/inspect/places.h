// SPDX-License-Identifier: GPL-2.0-or-later
// Places: which data places the live keys of a log name, to find those that more than one names.
//
// Two keys may name the same data only as the same sectors of the device, and only when the data is
// damaged or cannot be read: then writeback appends the key of it (or of a part) again. Everything
// else no cache writes: a kset stands there twice, and so another one is gone, or one key is wrong.
// One thread.
#pragma once

#include <vector>

#include "inspect/finding.h"
#include "segment/segment_table.h"

namespace pcache {

class Places {
 public:
  void begin_kset(CachePos at) { ksets_.push_back(at); }
  void add(const media::Key& key);  // a live one, of the kset that was begun last
  // Reads data where a key comes again. `with_crc`: by its crc it is told whether it is sound.
  void judge(const Pmem& pmem, const SegmentTable& segments, bool with_crc, Findings* findings);

 private:
  struct Claim {
    CachePos pos;
    uint32_t len;
    uint32_t crc;
    uint64_t off;
    uint32_t kset;
  };

  std::vector<CachePos> ksets_;
  std::vector<Claim> claims_;
};

}  // namespace pcache
