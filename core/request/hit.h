// SPDX-License-Identifier: GPL-2.0-or-later
// Copying a cached piece out, and telling whether what was copied is what was cached.
#pragma once

#include "parts/parts.h"

namespace pcache {

enum class HitResult {
  kOk,
  kGone,  // the segment was freed meanwhile: look it up again
  kBad,   // media error, or the data does not match its crc
};

// With data_crc: whether what was copied of a page is what was cached.
bool page_verified(const Parts& parts, Index::Page page, uint64_t len_bytes, const void* copy);

// `gen`: the segment's generation as it was when the lookup was valid. With data_crc the piece's
// whole extent is verified, also when the piece is a cut of it (then the whole is read from pmem
// again).
HitResult copy_hit(const Parts& parts, const Piece& piece, uint64_t gen, void* dst);

// The same of `page`, a page or what is left of one, in `seg`, for `len_bytes`.
[[gnu::always_inline]] inline HitResult copy_page(const Parts& parts, Index::Page page,
                                                  SegmentTable::View seg, uint64_t len_bytes,
                                                  uint64_t gen, void* dst) {
  PCACHE_DCHECK(len_bytes > 0 && len_bytes <= kPageBytes);
  const bool good = parts.pmem.load(dst, seg.media(page.slot.pos().off), len_bytes) &&
                    (!parts.data_crc || page_verified(parts, page, len_bytes, dst));
  // The copy must be over before the generation is looked at again.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (seg.generation() != gen) [[unlikely]]
    return HitResult::kGone;
  return good ? HitResult::kOk : HitResult::kBad;
}

}  // namespace pcache
