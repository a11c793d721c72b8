// SPDX-License-Identifier: GPL-2.0-or-later
// Places: the data places that a log's live keys name, to find those that several keys name.
//
// Keys of zeros may share a place. Two others may name the same data only for the same sectors of
// the device, and only if the data is damaged or cannot be read: then writeback appends its key (or
// that of a part) again. No cache writes other such keys: a kset was copied over another one, or
// one key is wrong. Without data_crc data that could not be read then may be readable now (a bad
// page was cleared) and look sound: only a kset of several keys that comes again as a whole counts
// as a copy. One thread.
#pragma once

#include <vector>

#include "inspect/finding.h"
#include "segment/segment_table.h"

namespace pcache {

class Places {
 public:
  void begin_kset(CachePos at) { ksets_.push_back({at, 0}); }
  void add(const media::Key& key);  // a live key of the kset begun last
  // Reads the data of keys that come again. `with_crc`: the crc tells whether the data is sound.
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
    bool zeros;
  };
  // How many keys of a kset were in the log before.
  struct Repeats {
    uint32_t of = 0;  // the first kset that has such a key, too
    uint64_t keys = 0;
    uint64_t in_place = 0;  // those that `of` has at the same index
  };
  bool is_copy(uint32_t kset, const Repeats& repeats) const;

  std::vector<Kset> ksets_;
  std::vector<Claim> claims_;
};

}  // namespace pcache
