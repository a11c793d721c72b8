// SPDX-License-Identifier: GPL-2.0-or-later
// Where things are on the cache device. `physical` is a segment's number on the device, which may
// differ from its SegId, the position in the chain.
#pragma once

#include "base/ids.h"
#include "format/media.h"
#include "format/replica.h"

namespace pcache {

inline MediaOff segment_off(uint32_t physical) {
  PCACHE_DCHECK(physical < media::kMaxSegments);
  return MediaOff{media::kSegmentsOff + physical * media::kSegmentBytes};
}
inline MediaOff segment_data_off(uint32_t physical) {
  return segment_off(physical) + media::kSegDataOff;
}
inline ReplicaPlace cache_info_place() {
  return {MediaOff{media::kCacheInfoOff}, media::kCacheInfoStride, 1};
}
inline ReplicaPlace key_tail_place() {
  return {MediaOff{media::kCacheCtrlOff + offsetof(media::CacheCtrl, key_tail)},
          sizeof(media::TailPos), 0};
}
inline ReplicaPlace dirty_tail_place() {
  return {MediaOff{media::kCacheCtrlOff + offsetof(media::CacheCtrl, dirty_tail)},
          sizeof(media::TailPos), 0};
}
inline ReplicaPlace segment_info_place(uint32_t physical) {
  return {segment_off(physical), media::kSegInfoStride, 1};
}
inline ReplicaPlace segment_gen_place(uint32_t physical) {
  return {segment_off(physical) + media::kSegCtrlOff, sizeof(media::SegmentGen), 1};
}

}  // namespace pcache
