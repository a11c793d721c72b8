// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/superseded.h"

#include "base/mutants.h"

namespace pcache {

using media::Key;

void Superseded::prefetch(std::span<const Key> keys) const {
  parts_.index.prefetch_each(keys, off_of_key);
}

bool Superseded::is_superseded(const Key& key) {
  const CachePos pos{SegId{key.cache_seg_id}, key.cache_seg_off};
  for (uint64_t at = key.off; at < key.off + key.len;) {
    Piece piece;
    Index::Snapshot snapshot;
    parts_.index.lookup({at, key.off + key.len - at}, {&piece, 1}, &snapshot);
    if (!parts_.index.still_valid(snapshot)) continue;
    if (piece.kind == Piece::Kind::kHit && piece.pos == pos + static_cast<uint32_t>(at - key.off))
      return false;
    at = piece.extent.end();
  }
  stripes_.set(parts_.stripes.number(key.off));
  return true;
}

Status Superseded::make_durable() {
  if (!any() || hazard(Hazard::kSupersederNotDurable)) return {};
  // Whoever has changed the index may not have appended its key yet. It does both under the lock of
  // the stripe, which this takes even if it has no open kset.
  return parts_.stripes.close(stripes_);
}

}  // namespace pcache
