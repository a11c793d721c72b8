// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/hit.h"

#include <algorithm>

namespace pcache {

namespace {

// The crc of [pos, pos + len) as it is on media; false when it cannot be read.
bool media_crc(const RequestContext& ctx, CachePos pos, uint32_t len, uint32_t* crc) {
  std::byte chunk[8192];
  *crc = media::kCrcSeed;
  while (len > 0) {
    const uint32_t n = std::min<uint32_t>(len, sizeof chunk);
    if (!ctx.pmem.load(chunk, ctx.segments.media(pos), n)) return false;
    *crc = crc32c(*crc, chunk, n);
    pos = pos + n;
    len -= n;
  }
  return true;
}

bool load_verified(const RequestContext& ctx, const Piece& piece, void* dst) {
  if (!ctx.pmem.load(dst, ctx.segments.media(piece.pos), piece.extent.len)) return false;
  if (!ctx.data_crc) return true;
  uint32_t crc;
  if (piece.whole_len == piece.extent.len)
    crc = data_crc32c(dst, piece.extent.len);
  else if (!media_crc(ctx, piece.whole_pos, piece.whole_len, &crc))
    return false;
  return crc == piece.crc;
}

}  // namespace

HitResult copy_hit(const RequestContext& ctx, const Piece& piece, uint64_t gen, void* dst) {
  const bool good = load_verified(ctx, piece, dst);
  // The copy must be over before the generation is looked at again.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (ctx.segments.generation(piece.pos.seg) != gen) return HitResult::kGone;
  return good ? HitResult::kOk : HitResult::kBad;
}

}  // namespace pcache
