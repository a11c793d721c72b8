// SPDX-License-Identifier: GPL-2.0-or-later
// DirtyBatch: the keys of some ksets, and what of their data has to be written back:
// of each sector the newest, in the order of the backing device. One thread
// changes it; any may look at it then.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "base/ids.h"
#include "format/media.h"

namespace pcache {

class DirtyBatch {
 public:
  struct Piece {
    Extent extent;
    uint32_t key = 0;  // in keys(); the piece is all of its range, or a part
  };

  void clear();
  void add(const media::Key& key);  // in log order
  const std::vector<media::Key>& keys() const { return keys_; }
  uint64_t appended_bytes() const { return appended_bytes_; }

  // Ascending and without overlaps.
  std::vector<Piece> pieces() const;
  // Where its data begins.
  CachePos place(const Piece& piece) const {
    const media::Key& key = keys_[piece.key];
    PCACHE_DCHECK(piece.extent.off >= key.off && piece.extent.end() <= key.off + key.len);
    return CachePos{SegId{key.cache_seg_id}, key.cache_seg_off} +
           static_cast<uint32_t>(piece.extent.off - key.off);
  }

 private:
  std::vector<media::Key> keys_;
  uint64_t appended_bytes_ = 0;
};

}  // namespace pcache
