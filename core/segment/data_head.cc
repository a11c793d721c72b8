// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/data_head.h"

#include <algorithm>

namespace pcache {

DataHead::~DataHead() {
  MutexLock lock(mu_);
  if (seg_) segments_.finish_filling(*seg_, keys_);
}

std::optional<Place> DataHead::allocate(uint32_t len_bytes) {
  PCACHE_DCHECK(len_bytes > 0 && len_bytes % kSectorBytes == 0);
  MutexLock lock(mu_);
  if (seg_ && off_ == media::kSegDataBytes) {
    segments_.finish_filling(*seg_, keys_);
    seg_.reset();
  }
  if (!seg_) {
    seg_ = segments_.take_for_data();
    if (!seg_) return std::nullopt;
    off_ = 0;
    keys_ = 0;
  }
  const uint32_t len = std::min(len_bytes, media::kSegDataBytes - off_);
  const Place place{CachePos{*seg_, off_}, len};
  off_ += len;
  keys_++;
  return place;
}

}  // namespace pcache
