// SPDX-License-Identifier: GPL-2.0-or-later
// Copying a cached piece out, and telling whether what was copied is what was cached.
#pragma once

#include "request/context.h"

namespace pcache {

enum class HitResult {
  kOk,
  kGone,  // the segment was freed meanwhile: look it up again
  kBad,   // media error, or the data does not match its crc
};

// `gen`: the segment's generation as it was when the lookup was valid. With data_crc the piece's
// whole extent is verified, also when the piece is a cut of it (then the whole is read from pmem
// again).
HitResult copy_hit(const RequestContext& ctx, const Piece& piece, uint64_t gen, void* dst);

}  // namespace pcache
