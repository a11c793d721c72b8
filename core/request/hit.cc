// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/hit.h"

#include <cstring>

#include "base/mutants.h"
#include "segment/media_crc.h"

namespace pcache {

namespace {

// An extent as it was stored, with the crc of all of it.
struct Whole {
  CachePos pos;
  uint32_t len_bytes;
  uint32_t crc;
};
// `copy` has `len_bytes` that were read of the extent `whole`: all of it, or a cut.
bool verified(const Parts& parts, uint64_t len_bytes, const Whole& whole, const void* copy) {
  if (hazard(Hazard::kReadsNotVerified)) return true;
  if (whole.len_bytes == len_bytes) return data_crc32c(copy, len_bytes) == whole.crc;
  if (hazard(Hazard::kCutExtentsNotVerified)) return true;
  return media_crc(parts.pmem, parts.segments, whole.pos, whole.len_bytes) == whole.crc;
}

}  // namespace

bool page_verified(const Parts& parts, Index::Page page, uint64_t len_bytes, const void* copy) {
  const CachePos pos = page.slot.pos(), start{pos.seg, pos.off - page.check.delta_bytes()};
  return verified(parts, len_bytes, {start, page.check.len_bytes(), page.check.crc()}, copy);
}

HitResult copy_hit(const Parts& parts, const Piece& piece, uint64_t gen, void* dst) {
  const uint64_t len_bytes = piece.extent.len;
  PCACHE_DCHECK(piece.kind == Piece::Kind::kHit && len_bytes > 0);
  bool good = true;
  if (piece.zeros)
    memset(dst, 0, len_bytes);
  else
    good = parts.pmem.load(dst, parts.segments.media(piece.pos), len_bytes) &&
           (!parts.data_crc ||
            verified(parts, len_bytes, {piece.whole_pos, piece.whole_len, piece.crc}, dst));
  // The copy must be over before the generation is looked at again.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (parts.segments.generation(piece.pos.seg) != gen) return HitResult::kGone;
  return good ? HitResult::kOk : HitResult::kBad;
}

}  // namespace pcache
