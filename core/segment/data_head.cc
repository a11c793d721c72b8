// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/data_head.h"

namespace pcache {

DataHead::~DataHead() {
  BiasedLock lock(mu_);
  if (filling_) segments_.finish_filling(next_.seg, keys_);
}

// Fills up this segment, then takes the next one. False: no segment is free.
bool DataHead::make_room() {
  if (left_ > 0) return true;
  if (filling_) segments_.finish_filling(next_.seg, keys_);
  const auto seg = segments_.take_for_data();
  filling_ = seg.has_value();
  if (!filling_) return false;
  next_ = CachePos{*seg, 0};
  left_ = seg_bytes_;
  keys_ = 0;
  PCACHE_DCHECK(left_ % kSectorBytes == 0);
  return true;
}

void DataHead::leave(SegId seg) {
  BiasedLock lock(mu_);
  if (filling_ && next_.seg == seg) left_ = 0;
}

}  // namespace pcache
