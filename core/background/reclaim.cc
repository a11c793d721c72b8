// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/reclaim.h"

#include <array>
#include <new>
#include <span>

#include "base/mutants.h"
#include "keylog/log_cursor.h"
#include "segment/media_crc.h"

namespace pcache {

using media::Key;

namespace {

CachePos data_of(const Key& key) { return {SegId{key.cache_seg_id}, key.cache_seg_off}; }

}  // namespace

Reclaim::Reclaim(const Parts& parts) : parts_(parts) {
  if (parts.readonly) return;
  mover_ = std::make_unique<Mover>(parts);
  stay_.reserve(Stripes::kMostInOneGo);
}

Result<bool> Reclaim::step(Keep keep) {
  Result<CachePos> end = out_of_memory();
  try {
    end = collect();
  } catch (const std::bad_alloc&) {
  }
  if (!end) {
    counters_.errors.add();
    return end.error();
  }
  if (end.value() == parts_.tails.key_tail()) return false;
  // Only what writeback has passed. (The log is in a segment once, so there order is that of
  // places.)
  const CachePos dirty_tail = parts_.tails.dirty_tail();
  PCACHE_CHECK(end.value().seg != dirty_tail.seg || end.value().off <= dirty_tail.off);
  const bool frees_first = hazard(Hazard::kFreedBeforeMoved);
  if (frees_first) drop_references();
  if (keep != Keep::kNothing && parts_.retention.kind() != policy::PolicyKind::kFifo)
    keep_what_stays(keep);
  // Takes no memory.
  const uint64_t forgotten_bytes = forget_keys();
  parts_.retention.passed(passed_bytes_, forgotten_bytes);
  if (auto moved = parts_.tails.set_key_tail(parts_.pmem, end.value()); !moved) {
    counters_.errors.add();
    return moved.error();
  }
  if (!frees_first) drop_references();
  release_log_segments();
  counters_.ksets.add(ksets_);
  counters_.keys.add(keys_.size());
  counters_.dead_keys.add(dead_keys_);
  return true;
}

Result<CachePos> Reclaim::collect() {
  ksets_ = dead_keys_ = 0;
  keys_.clear();
  log_segments_.clear();
  const CachePos until = parts_.tails.dirty_tail();
  LogCursor cursor(parts_.pmem, parts_.segments, parts_.tails.key_tail(), {.until = until});
  CachePos end = cursor.pos();
  passed_bytes_ = 0;
  while (ksets_ < kReclaimStepKsets && passed_bytes_ < kReclaimStepBytes) {
    const auto next = cursor.next();
    if (!next) return next.error();
    const LogItem& item = next.value();
    if (item.kind == LogItem::Kind::kEnd) {
      if (item.pos == until) break;
      return make_error(EUCLEAN, "log at segment %u:%u: ends before dirty_tail: damaged",
                        item.pos.seg.v, item.pos.off);
    }
    if (item.kind == LogItem::Kind::kLast) {
      log_segments_.push_back(item.pos.seg);
      end = item.next;
      continue;
    }
    uint64_t bytes = 0;
    for (const Key& key : item.keys)  // zeros store next to nothing
      if (!(key.flags & media::kKeyZeros)) bytes += key.len;
    if (ksets_ > 0 && passed_bytes_ + bytes > kReclaimStepBytes) break;
    end = item.next;
    ksets_++;
    passed_bytes_ += bytes;
    for (const Key& key : item.keys)
      if (key.seg_gen == parts_.segments.generation(SegId{key.cache_seg_id}) ||
          hazard(Hazard::kDeadKeyReferences))
        keys_.push_back(key);
      else
        dead_keys_++;
  }
  PCACHE_CHECK(keys_.size() + dead_keys_ <= ksets_ * media::kKeysPerKset);
  by_stripe_ = parts_.stripes.grouped(std::span<const Key>(keys_), off_of_key);
  return end;
}

// What is moved has left the old places in the index, so forget_keys() finds nothing there. What
// finds no place is given up.
void Reclaim::keep_what_stays(Keep keep) {
  const std::span<const Key> all(by_stripe_);
  for (size_t at = 0; at < all.size();) {
    const auto run = parts_.stripes.run_from(all, at, off_of_key);
    parts_.index.prefetch_each(run, off_of_key);
    stay_.clear();
    for (const Key& key : run) {
      policy::Mark mark = parts_.retention.mark(parts_.segments.media(data_of(key)), key.len);
      // What is superseded uses up nothing of what may stay.
      if (mark != policy::Mark::kNotHit && !is_cached(key)) mark = policy::Mark::kNotHit;
      if (parts_.retention.stays(mark, key.len, keep == Keep::kLittle)) stay_.push_back(key);
    }
    if (!stay_.empty()) (void)mover_->move(stay_);
    at += run.size();
  }
}

// Something of it.
bool Reclaim::is_cached(const Key& key) const {
  const CachePos pos = data_of(key);
  for (uint64_t at = key.off; at < key.off + key.len;) {
    Piece piece;
    Index::Snapshot snapshot;
    parts_.index.lookup({at, key.off + key.len - at}, {&piece, 1}, &snapshot);
    if (!parts_.index.still_valid(snapshot)) continue;
    if (piece.kind == Piece::Kind::kHit &&
        piece.pos == pos + static_cast<uint32_t>(piece.extent.off - key.off))
      return true;
    at = piece.extent.end();
  }
  return false;
}

// Returns how many bytes were cached and are not any more.
uint64_t Reclaim::forget_keys() {
  uint64_t all_bytes = 0;
  const std::span<const Key> all(by_stripe_);
  for (size_t at = 0; at < all.size();) {
    const auto run = parts_.stripes.run_from(all, at, off_of_key);
    parts_.index.prefetch_each(run, off_of_key);
    // Looks without the lock: most of a hot set is superseded, and what is stays so.
    std::array<const Key*, Stripes::kMostInOneGo> cached;
    size_t n = 0;
    for (const Key& key : run)
      if (is_cached(key)) cached[n++] = &key;
    std::array<uint64_t, Stripes::kMostInOneGo> forgotten;
    if (n > 0) {
      BorrowedStripeLock lock(parts_.stripes.of(run.front().off));
      for (size_t i = 0; i < n; i++)
        forgotten[i] = parts_.index.remove({cached[i]->off, cached[i]->len}, data_of(*cached[i]));
    }
    for (size_t i = 0; i < n; i++) {
      if (forgotten[i] == 0) continue;
      all_bytes += forgotten[i];
      count_forgotten(*cached[i], forgotten[i]);
    }
    at += run.size();
  }
  return all_bytes;
}

void Reclaim::count_forgotten(const Key& key, uint64_t bytes) {
  counters_.forgotten_bytes.add(bytes);
  // The backing device has the same bytes: nothing is lost, but the media is failing.
  if (parts_.data_crc &&
      media_crc(parts_.pmem, parts_.segments, data_of(key), key.len) != key.data_crc)
    counters_.bad_clean.add();
}

void Reclaim::drop_references() {
  for (size_t at = 0; at < keys_.size();) {
    const uint32_t seg = keys_[at].cache_seg_id;
    size_t stop = at + 1;
    while (stop < keys_.size() && keys_[stop].cache_seg_id == seg) stop++;
    parts_.segments.drop_refs(SegId{seg}, static_cast<int64_t>(stop - at));
    at = stop;
  }
}

void Reclaim::release_log_segments() {
  for (const SegId seg : log_segments_) {
    PCACHE_CHECK(seg != parts_.tails.key_tail().seg);  // or replay would begin in a free segment
    parts_.segments.release_log(seg);
  }
}

}  // namespace pcache
