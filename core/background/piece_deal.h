// SPDX-License-Identifier: GPL-2.0-or-later
// PieceDeal: the pieces of one write, dealt to several who write them at the same time. Each takes
// the next part when it is through with one, so that they move along the device together, and end
// together.
//
// Invariants
// - Each piece is in one part, and parts are dealt in the order of the pieces.
// - Zeros end no part: one request makes many pieces of them.
// Any thread. Locks: its own is a leaf.
#pragma once

#include <span>

#include "background/dirty_batch.h"
#include "base/mutex.h"

namespace pcache {

class PieceDeal {
 public:
  // The numbers of its pieces; begin == end: there are no more.
  struct Part {
    size_t begin = 0, end = 0;
  };

  static constexpr uint64_t kAllInOne = UINT64_MAX;  // part_bytes

  // A part ends with the piece that reaches `part_bytes` of data. `batch` and `pieces` outlive it.
  PieceDeal(const DirtyBatch& batch, std::span<const DirtyBatch::Piece> pieces, uint64_t part_bytes)
      : batch_(batch), pieces_(pieces), part_bytes_(part_bytes) {}

  std::span<const DirtyBatch::Piece> pieces() const { return pieces_; }
  Part next() EXCLUDES(mu_) {
    MutexLock lock(mu_);
    const size_t begin = next_;
    if (part_bytes_ == kAllInOne) next_ = pieces_.size();  // no look at any key
    for (uint64_t bytes = 0; next_ < pieces_.size() && bytes < part_bytes_; next_++) {
      const DirtyBatch::Piece& piece = pieces_[next_];
      const bool zeros = batch_.keys()[piece.key].flags & media::kKeyZeros;
      bytes += zeros ? 0 : piece.extent.len;
    }
    return {begin, next_};
  }

 private:
  const DirtyBatch& batch_;
  const std::span<const DirtyBatch::Piece> pieces_;
  const uint64_t part_bytes_;
  Mutex mu_;
  size_t next_ GUARDED_BY(mu_) = 0;
};

}  // namespace pcache
