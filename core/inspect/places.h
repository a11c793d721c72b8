// SPDX-License-Identifier: GPL-2.0-or-later
// Places: which data places the live keys of a log name, to find those that more than one names.
//
// Two keys may name the same data only as the same sectors of the device, and only when the data is
// damaged or cannot be read: then writeback appends the key of it (or of a part) again. Everything
// else no cache writes: a kset stands there twice, and so another one is gone, or one key is wrong.
// Without data_crc data that could not be read then, and can be now (a bad page was cleared), looks
// sound: only a kset of several keys that comes again as a whole is taken for a copy. One thread.
#pragma once

#include <vector>

#include "inspect/finding.h"
#include "segment/segment_table.h"

namespace pcache {

class Places {
 public:
  void begin_kset(CachePos at) { ksets_.push_back({at, 0}); }
  void add(const media::Key& key);  // a live one, of the kset that was begun last
  // Reads data where a key comes again. `with_crc`: by its crc it is told whether it is sound.
  void judge(const Pmem& pmem, const SegmentTable& segments, bool with_crc, Findings* findings);

 private:
  struct Kset {
    CachePos at;
    uint32_t keys;
  };
  struct Claim {
    CachePos pos;
    uint32_t len;
    uint32_t crc;
    uint64_t off;
    uint32_t kset;
    uint32_t index;  // in its kset
  };
  // What a kset has of keys that the log has had before.
  struct Repeats {
    uint32_t of = 0;  // the first kset that has such a key, too
    uint64_t keys = 0;
    uint64_t in_place = 0;  // of them, the same as `of` has at the same index
  };
  bool is_copy(uint32_t kset, const Repeats& repeats) const;

  std::vector<Kset> ksets_;
  std::vector<Claim> claims_;
};

}  // namespace pcache
