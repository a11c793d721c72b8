// SPDX-License-Identifier: GPL-2.0-or-later
// The crc of cached data as it stands on media. Any thread.
#pragma once

#include <optional>

#include "segment/segment_table.h"

namespace pcache {

// data_crc of [pos, pos + len_bytes); nothing when the media cannot be read.
std::optional<uint32_t> media_crc(const Pmem& pmem, const SegmentTable& segments, CachePos pos,
                                  uint32_t len_bytes);

}  // namespace pcache
