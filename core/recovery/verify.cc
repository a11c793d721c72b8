// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/verify.h"

#include <algorithm>
#include <set>

#include "base/crew.h"
#include "base/mutants.h"
#include "keylog/log_cursor.h"
#include "segment/media_crc.h"

namespace pcache {

using media::Key;

namespace {

CachePos place_of(const Key& key) { return {SegId{key.cache_seg_id}, key.cache_seg_off}; }

class Verify {
 public:
  Verify(const Pmem& pmem, const SegmentTable& segments, Index& index, const Log& messages,
         unsigned threads)
      : pmem_(pmem), segments_(segments), index_(index), messages_(messages), crew_(threads - 1) {
    keys_.reserve(kMostKeys);
    damaged_.resize(kMostKeys);
  }

  Result<VerifyResult> run(CachePos key_tail, const std::function<void(uint64_t)>& progress) {
    LogCursor cursor(pmem_, segments_, key_tail);
    uint64_t passed_bytes = 0;
    for (;;) {
      auto next = cursor.next();
      if (!next) return next.error();
      const LogItem& item = next.value();
      if (item.kind == LogItem::Kind::kEnd) break;
      if (progress) progress(passed_bytes);
      for (const Key& key : item.keys) passed_bytes += key.len;
      if (auto added = add(item.keys); !added) return added.error();
      if (keys_.size() + media::kKeysPerKset > kMostKeys) check();
    }
    check();
    return std::move(result_);
  }

 private:
  static constexpr size_t kMostKeys = 8192;
  static constexpr uint64_t kTaskBytes = 1 << 20;  // of data; or so many keys:
  static constexpr size_t kTaskKeys = 256;

  // Those of which anybody looks at the data.
  Status add(std::span<const Key> keys) {
    for (const Key& key : keys) {
      const CachePos whole = place_of(key);
      if (hazard(Hazard::kCrcBeforeGeneration) && key.seg_gen < segments_.generation(whole.seg) &&
          !is_sound(key))
        return make_error(EIO, "data of segment %u:%u fails its crc", whole.seg.v, whole.off);
      if (key.seg_gen == segments_.generation(whole.seg) && !(key.flags & media::kKeyZeros))
        keys_.push_back(key);
    }
    return {};
  }

  // All threads look at data; what is damaged the caller's alone takes out of the index.
  void check() {
    tasks_.clear();
    uint64_t bytes = 0;
    size_t begin = 0;
    for (size_t i = 0; i < keys_.size(); i++) {
      bytes += keys_[i].len;
      if (bytes < kTaskBytes && i + 1 - begin < kTaskKeys && i + 1 < keys_.size()) continue;
      tasks_.push_back({begin, i + 1});
      begin = i + 1;
      bytes = 0;
    }
    crew_.begin(tasks_.size(), [this](size_t task) {
      for (size_t i = tasks_[task].begin; i < tasks_[task].end; i++)
        damaged_[i] = is_mapped(keys_[i]) && !is_sound(keys_[i]);
    });
    crew_.finish();
    for (size_t i = 0; i < keys_.size(); i++)
      if (damaged_[i]) note_damaged(keys_[i]);
    keys_.clear();
  }

  bool is_sound(const Key& key) const {
    return media_crc(pmem_, segments_, place_of(key), key.len) == key.data_crc;
  }

  // Calls `take` for each piece of the index that is this key's, until it returns false.
  template <typename Take>
  void each_piece(const Key& key, Take take) const {
    for (uint64_t at = key.off; at < key.off + key.len;) {
      Piece piece;
      Index::Snapshot snapshot;
      index_.lookup({at, key.off + key.len - at}, {&piece, 1}, &snapshot);
      if (piece.kind == Piece::Kind::kHit && piece.crc == key.data_crc &&
          piece.pos == place_of(key) + static_cast<uint32_t>(at - key.off) && !take(piece))
        return;
      PCACHE_CHECK(piece.extent.end() > at);
      at = piece.extent.end();
    }
  }

  bool is_mapped(const Key& key) const {
    bool mapped = false;
    each_piece(key, [&](const Piece&) {
      mapped = true;
      return false;
    });
    return mapped;
  }

  void note_damaged(const Key& key) {
    std::vector<Piece> mapped;
    each_piece(key, [&](const Piece& piece) {
      mapped.push_back(piece);
      return true;
    });
    if (mapped.empty()) return;  // the same key has come before
    bool is_new = false;
    for (const Piece& piece : mapped) {
      if (piece.clean) {
        const IndexAlone alone;
        index_.remove(piece.extent, piece.pos);
        result_.damaged.push_back({piece.extent, piece.pos, true});
        continue;
      }
      if (!named_.insert(piece.pos).second) continue;
      result_.damaged.push_back({piece.extent, piece.pos, false});
      is_new = true;
      messages_.print(LogLevel::kError,
                      "dirty data of range %llu+%llu is damaged (segment %u:%u): reads of it fail",
                      static_cast<unsigned long long>(piece.extent.off),
                      static_cast<unsigned long long>(piece.extent.len), piece.pos.seg.v,
                      piece.pos.off);
    }
    if (mapped[0].clean)
      result_.clean_dropped++;
    else if (is_new)
      result_.dirty_bad++;
  }

  struct Range {
    size_t begin, end;  // of keys_
  };

  const Pmem& pmem_;
  const SegmentTable& segments_;
  Index& index_;
  const Log& messages_;
  VerifyResult result_;
  std::set<CachePos> named_;  // writeback may have appended the same key a second time
  std::vector<Key> keys_;
  std::vector<uint8_t> damaged_;  // of keys_
  std::vector<Range> tasks_;
  Crew crew_;  // last: its tasks use the others
};

}  // namespace

Result<VerifyResult> verify_replayed(const Pmem& pmem, const SegmentTable& segments, Index& index,
                                     const Tails& tails, const Log& messages, unsigned threads,
                                     const std::function<void(uint64_t)>& progress) {
  PCACHE_CHECK(threads >= 1);
  return Verify(pmem, segments, index, messages, threads).run(tails.key_tail(), progress);
}

}  // namespace pcache
