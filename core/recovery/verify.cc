// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/verify.h"

#include <set>

#include "base/mutants.h"
#include "keylog/log_cursor.h"
#include "segment/media_crc.h"

namespace pcache {

using media::Key;

Result<VerifyResult> verify_replayed(const Pmem& pmem, const SegmentTable& segments, Index& index,
                                     const Tails& tails, const Log& messages,
                                     const std::function<void(uint64_t)>& progress) {
  VerifyResult result;
  std::set<CachePos> named;  // writeback may have appended the same key a second time
  LogCursor cursor(pmem, segments, tails.key_tail());
  uint64_t passed_bytes = 0;
  for (;;) {
    auto next = cursor.next();
    if (!next) return next.error();
    if (next.value().kind == LogItem::Kind::kEnd) return result;
    if (progress) progress(passed_bytes);
    for (const Key& key : next.value().keys) {
      passed_bytes += key.len;
      const CachePos whole{SegId{key.cache_seg_id}, key.cache_seg_off};
      if (hazard(Hazard::kCrcBeforeGeneration) && key.seg_gen < segments.generation(whole.seg) &&
          media_crc(pmem, segments, whole, key.len) != key.data_crc)
        return make_error(EIO, "data of segment %u:%u fails its crc", whole.seg.v, whole.off);
      if (key.seg_gen != segments.generation(whole.seg)) continue;
      if (key.flags & media::kKeyZeros) continue;  // nobody looks at its data
      std::vector<Piece> mapped;
      bool sound = true;
      for (uint64_t at = key.off; at < key.off + key.len;) {
        Piece piece;
        Index::Snapshot snapshot;
        index.lookup({at, key.off + key.len - at}, {&piece, 1}, &snapshot);
        if (piece.kind == Piece::Kind::kHit && piece.crc == key.data_crc &&
            piece.pos == whole + static_cast<uint32_t>(at - key.off))
          mapped.push_back(piece);
        PCACHE_CHECK(piece.extent.end() > at);
        at = piece.extent.end();
      }
      if (!mapped.empty()) sound = media_crc(pmem, segments, whole, key.len) == key.data_crc;
      if (sound) continue;
      PCACHE_CHECK(!mapped.empty());  // data that is not mapped counts as sound
      bool is_new = false;
      for (const Piece& piece : mapped) {
        if (piece.clean) {
          const IndexAlone alone;
          index.remove(piece.extent, piece.pos);
          result.damaged.push_back({piece.extent, piece.pos, true});
          continue;
        }
        if (!named.insert(piece.pos).second) continue;
        result.damaged.push_back({piece.extent, piece.pos, false});
        is_new = true;
        messages.print(LogLevel::kError,
                       "dirty data of range %llu+%llu is damaged (segment %u:%u): reads of it fail",
                       static_cast<unsigned long long>(piece.extent.off),
                       static_cast<unsigned long long>(piece.extent.len), piece.pos.seg.v,
                       piece.pos.off);
      }
      if (mapped[0].clean)
        result.clean_dropped++;
      else if (is_new)
        result.dirty_bad++;
    }
  }
}

}  // namespace pcache
