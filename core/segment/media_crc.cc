// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/media_crc.h"

#include <algorithm>

#include "format/codec.h"

namespace pcache {

std::optional<uint32_t> media_crc(const Pmem& pmem, const SegmentTable& segments, CachePos pos,
                                  uint32_t len_bytes) {
  std::byte chunk[8192];
  uint32_t crc = media::kCrcSeed;
  while (len_bytes > 0) {
    const uint32_t n = std::min<uint32_t>(len_bytes, sizeof chunk);
    if (!pmem.load(chunk, segments.media(pos), n)) return std::nullopt;
    crc = crc32c(crc, chunk, n);
    pos = pos + n;
    len_bytes -= n;
  }
  return crc;
}

}  // namespace pcache
