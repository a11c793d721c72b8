// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/hit.h"

#include "base/mutants.h"
#include "segment/media_crc.h"

namespace pcache {

namespace {

bool load_verified(const RequestContext& ctx, const Piece& piece, void* dst) {
  if (!ctx.pmem.load(dst, ctx.segments.media(piece.pos), piece.extent.len)) return false;
  if (!ctx.data_crc || hazard(Hazard::kReadsNotVerified)) return true;
  if (piece.whole_len == piece.extent.len) return data_crc32c(dst, piece.extent.len) == piece.crc;
  if (hazard(Hazard::kCutExtentsNotVerified)) return true;
  return media_crc(ctx.pmem, ctx.segments, piece.whole_pos, piece.whole_len) == piece.crc;
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
