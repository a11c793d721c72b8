// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/replay.h"

#include "base/mutants.h"
#include "recovery/kset_copies.h"

namespace pcache {

using media::Key;

namespace {

Error bad_key(const LogItem& item, size_t index, const Error& why) {
  return make_error(why.code, "log at segment %u:%u: key %zu: %s", item.pos.seg.v, item.pos.off,
                    index, why.text.c_str());
}

class Replay {
 public:
  Replay(SegmentTable& segments, Index& index, const Tails& tails, const Bounds& bounds)
      : segments_(segments), index_(index), tails_(tails), bounds_(bounds) {}

  Result<ReplayResult> run(const Pmem& pmem) {
    LogCursor cursor(pmem, segments_, tails_.key_tail());
    segments_.replay_log_segment(tails_.key_tail().seg);
    for (;;) {
      if (cursor.pos() == tails_.dirty_tail()) dirty_ = true;
      auto next = cursor.next();
      if (!next) return next.error();
      const LogItem& item = next.value();
      if (item.kind == LogItem::Kind::kEnd) {
        result_.head = item.pos;
        result_.torn_tail = item.torn;
        break;
      }
      if (item.kind == LogItem::Kind::kLast) {
        PCACHE_CHECK(item.next.seg.v < segments_.size());
        if (segments_.holds_keys(item.next.seg))
          return make_error(
              EUCLEAN, "log at segment %u:%u: leads to segment %u, which holds data of live keys",
              item.pos.seg.v, item.pos.off, item.next.seg.v);
        segments_.replay_log_segment(item.next.seg);
        continue;
      }
      result_.ksets++;
      if (dirty_) result_.dirty_ksets++;
      for (size_t i = 0; i < item.keys.size(); i++) {
        if (auto valid = validate_key(item.keys[i], bounds_); !valid)
          return bad_key(item, i, valid.error());
      }
      prefetch(item.keys);
      for (size_t i = 0; i < item.keys.size(); i++)
        if (auto applied = apply(item.keys[i]); !applied) return bad_key(item, i, applied.error());
      if (result_.generations_lost) return result_;
      copies_.add(item.crc, item.keys);
      // Zeros name more than they store; of them there can be no more than the device has.
      if (index_.mapped_bytes() >
          uint64_t{segments_.size()} * media::kSegDataBytes + result_.dirty_zero_bytes)
        return make_error(EUCLEAN,
                          "log at segment %u:%u: its keys name more data than the cache can hold",
                          item.pos.seg.v, item.pos.off);
    }
    result_.repeated = copies_.repeated();
    result_.dirty_tail_met = dirty_;
    PCACHE_CHECK(result_.dirty_ksets <= result_.ksets && result_.dirty_keys <= result_.keys);
    PCACHE_CHECK(result_.dead_dirty_keys <= result_.dead_keys);
    if (!dirty_ && !tails_.dirty_tail_is_old())
      return make_error(
          EUCLEAN, "dirty_tail %u:%u is not a kset between key_tail %u:%u and the log's end %u:%u",
          tails_.dirty_tail().seg.v, tails_.dirty_tail().off, tails_.key_tail().seg.v,
          tails_.key_tail().off, result_.head.seg.v, result_.head.off);
    return result_;
  }

 private:
  // Prefetches the index's memory for all these valid keys, a level at a time: otherwise each key
  // would wait for each level.
  void prefetch(std::span<const Key> keys) const {
    index_.prefetch_each(keys, off_of_key);
    for (const Key& key : keys)
      if (key.len % kPageBytes != 0) index_.prefetch_sectors(key.off);
  }
  // Puts a valid key into the index and counts its reference, or forgets its range if it is dead.
  Status apply(const Key& key) {
    const SegId seg{key.cache_seg_id};
    PCACHE_DCHECK(seg.v < segments_.size());  // validate_key() has checked it
    const uint64_t gen = segments_.generation(seg);
    if (key.seg_gen > gen) {
      result_.generations_lost = true;
      return {};
    }
    if (key.seg_gen < gen) {
      // Reclaim has freed its segment, but key_tail had not moved past the key when the power
      // failed. The key holds no reference, so reclaim must not drop one for it (hazard
      // dead-key-references). An earlier key of the range has older data, so the range leaves the
      // index. Before dirty_tail the backing device has this key's data, or a later key of the
      // range comes; behind it neither, and the range is lost.
      result_.dead_keys++;
      if (dirty_ && !(key.flags & media::kKeyClean)) {
        result_.dead_dirty_keys++;
        result_.lost.add({key.off, key.len});
      }
      const IndexAlone alone;
      if (hazard(Hazard::kDeadKeyUsed))
        return index_.insert({key.off, key.len},
                             Location{CachePos{seg, key.cache_seg_off}, true, key.data_crc});
      return index_.erase({key.off, key.len});
    }
    if (!segments_.replay_key(seg))
      return make_error(EUCLEAN, "data in segment %u, which is part of the log", seg.v);
    const bool clean = key.flags & media::kKeyClean || !dirty_;
    const bool zeros = key.flags & media::kKeyZeros;
    result_.keys++;
    if (!clean && (key.off | key.len) % bounds_.block_bytes != 0)
      return make_error(EINVAL,
                        "dirty range %llu+%u cannot be written to a backing device with blocks of "
                        "%u bytes; attach it to one with smaller blocks",
                        static_cast<unsigned long long>(key.off), key.len, bounds_.block_bytes);
    if (!clean) {
      result_.dirty_keys++;
      result_.dirty_bytes += key.len;
      if (zeros) result_.dirty_zero_bytes += key.len;
      if (!result_.lost.empty()) result_.lost.remove({key.off, key.len});
    }
    const IndexAlone alone;
    // The backing device has them, too: see Settler. Older keys of the range do not count any more
    // (hazard zeros-come-back).
    if (clean && zeros)
      return hazard(Hazard::kZerosComeBack) ? Status() : index_.erase({key.off, key.len});
    return index_.insert({key.off, key.len},
                         Location{CachePos{seg, key.cache_seg_off}, clean, key.data_crc, zeros});
  }

  SegmentTable& segments_;
  Index& index_;
  const Tails& tails_;
  const Bounds& bounds_;
  bool dirty_ = false;  // dirty_tail has been reached
  KsetCopies copies_;
  ReplayResult result_;
};

}  // namespace

Result<ReplayResult> replay(const Pmem& pmem, SegmentTable& segments, Index& index,
                            const Tails& tails, const Bounds& bounds) {
  PCACHE_CHECK(bounds.n_segs == segments.size());
  return Replay(segments, index, tails, bounds).run(pmem);
}

Status raise_generations(const Pmem& pmem, SegmentTable& segments, const Tails& tails,
                         const Bounds& bounds) {
  PCACHE_CHECK(bounds.n_segs == segments.size());
  LogCursor cursor(pmem, segments, tails.key_tail());
  for (;;) {
    auto next = cursor.next();
    if (!next) return next.error();
    if (next.value().kind == LogItem::Kind::kEnd) return {};
    const LogItem& item = next.value();
    for (size_t i = 0; i < item.keys.size(); i++) {
      const Key& key = item.keys[i];
      if (auto valid = validate_key(key, bounds); !valid) return bad_key(item, i, valid.error());
      const SegId seg{key.cache_seg_id};
      if (key.seg_gen > segments.generation(seg)) segments.raise_generation(seg, key.seg_gen);
    }
  }
}

}  // namespace pcache
