// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/replay.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/crew.h"
#include "base/mutants.h"
#include "recovery/kset_copies.h"

namespace pcache {

using media::Key;

namespace {

Error bad_key(CachePos kset, uint32_t key, const Error& why) {
  return make_error(why.code, "log at segment %u:%u: key %u: %s", kset.seg.v, kset.off, key,
                    why.text.c_str());
}

// What a key changes in the index.
struct Change {
  Extent extent;
  Location location;
  bool erase = false;  // then without `location`
  uint32_t key = 0;    // of the kset, for messages
  CachePos kset;
};

// Changes of some ksets, by part of the index, in log order in each.
class Changes {
 public:
  static constexpr size_t kMostParts = 16;
  static constexpr size_t kFull = 8192;
  static constexpr uint64_t kFullBytes = 1 << 30;

  void clear() {
    for (auto& part : parts_) part.clear();
    size_ = bytes_ = 0;
  }
  void add(size_t part, const Change& change) {
    parts_[part].push_back(change);
    size_++;
    bytes_ += change.extent.len;
  }
  // Also by what they map: an image may have keys that map far more than the cache holds.
  bool full() const { return size_ >= kFull || bytes_ >= kFullBytes; }
  std::span<const Change> part(size_t i) const { return parts_[i]; }

 private:
  std::array<std::vector<Change>, kMostParts> parts_;
  size_t size_ = 0;
  uint64_t bytes_ = 0;
};

// The index's half of the work: changes it part by part, by all threads of a crew, while the
// caller reads on in the log. Stripes of an index are independent of each other.
class IndexChanges {
 public:
  IndexChanges(Index& index, unsigned threads)
      : index_(index),
        parts_(std::min<size_t>(Changes::kMostParts, index.stripes())),
        crew_(threads - 1) {}

  void erase(const Extent& extent, CachePos kset, uint32_t key) {
    next_->add(part_of(extent), {extent, {}, true, key, kset});
  }
  void insert(const Extent& extent, const Location& location, CachePos kset, uint32_t key) {
    next_->add(part_of(extent), {extent, location, false, key, kset});
  }
  bool full() const { return next_->full(); }

  // Begins to make the changes that were added, behind those before.
  Status go_on() {
    if (auto done = finish(); !done) return done;
    std::swap(next_, made_);
    crew_.begin(parts_, [this](size_t i) { make(made_->part(i), &errors_[i]); });
    return {};
  }
  // All that go_on() has begun are made; or the error of one that could not.
  Status finish() {
    crew_.finish();
    made_->clear();
    for (size_t i = 0; i < parts_; i++)
      if (errors_[i]) return *errors_[i];
    return {};
  }

 private:
  size_t part_of(const Extent& extent) const {
    return stripe_number(range_of(extent.off)) & (parts_ - 1);
  }
  // Prefetches the index's memory for some changes, a level at a time: otherwise each of them would
  // wait for each level.
  void make(std::span<const Change> changes, std::optional<Error>* error) {
    constexpr size_t kAhead = 64;
    while (!changes.empty()) {
      const auto some = changes.first(std::min(kAhead, changes.size()));
      changes = changes.subspan(some.size());
      index_.prefetch_each(some, [](const Change& change) { return change.extent.off; });
      for (const Change& change : some)
        if (change.extent.len % kPageBytes != 0) index_.prefetch_sectors(change.extent.off);
      for (const Change& change : some) {
        const IndexAlone alone;  // with this part
        const Status made = change.erase ? index_.erase(change.extent)
                                         : index_.insert(change.extent, change.location);
        if (made) continue;
        *error = bad_key(change.kset, change.key, made.error());
        return;
      }
    }
  }

  Index& index_;
  const size_t parts_;  // a power of two
  Changes one_, other_;
  Changes* next_ = &one_;
  Changes* made_ = &other_;
  std::array<std::optional<Error>, Changes::kMostParts> errors_;
  Crew crew_;  // last: its tasks use the others
};

class Replay {
 public:
  Replay(SegmentTable& segments, Index& index, const Tails& tails, const Bounds& bounds,
         unsigned threads, bool flush_seen)
      : segments_(segments),
        index_(index),
        tails_(tails),
        bounds_(bounds),
        flush_seen_(flush_seen),
        changes_(index, threads) {}

  Result<ReplayResult> run(const Pmem& pmem) {
    const Status read = read_log(pmem);
    // What could not be changed comes before what could not be read.
    if (auto done = changes_.go_on(); !done) return done.error();
    if (auto done = changes_.finish(); !done) return done.error();
    if (!read) return read.error();
    if (result_.generations_lost) return std::move(result_);
    if (auto fits = check_mapped(result_.head); !fits) return fits.error();
    result_.repeated = copies_.repeated();
    result_.dirty_tail_met = dirty_;
    PCACHE_CHECK(result_.dirty_ksets <= result_.ksets && result_.dirty_keys <= result_.keys);
    PCACHE_CHECK(result_.dead_dirty_keys <= result_.dead_keys);
    if (!dirty_ && !tails_.dirty_tail_is_old())
      return make_error(
          EUCLEAN, "dirty_tail %u:%u is not a kset between key_tail %u:%u and the log's end %u:%u",
          tails_.dirty_tail().seg.v, tails_.dirty_tail().off, tails_.key_tail().seg.v,
          tails_.key_tail().off, result_.head.seg.v, result_.head.off);
    return std::move(result_);
  }

 private:
  // Up to its end, or up to a key that shows that generations were lost.
  Status read_log(const Pmem& pmem) {
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
        return {};
      }
      // A writer's last store is that of a header; the rest of the kset, and all before it, it has
      // fenced. What dirty_tail has passed is durable, as it moves behind what is.
      if (dirty_ && flush_seen_)
        pmem.flush_seen(segments_.media(item.pos), sizeof(media::KsetHeader));
      if (item.kind == LogItem::Kind::kLast) {
        PCACHE_CHECK(item.next.seg.v < segments_.size());
        if (segments_.holds_keys(item.next.seg))
          return make_error(
              EUCLEAN, "log at segment %u:%u: leads to segment %u, which holds data of live keys",
              item.pos.seg.v, item.pos.off, item.next.seg.v);
        segments_.replay_log_segment(item.next.seg);
        continue;
      }
      if (auto read = read_keys(item); !read) return read;
      if (result_.generations_lost) return {};
      copies_.add(item.crc, item.keys);
      if (!changes_.full()) continue;
      if (auto done = changes_.go_on(); !done) return done;
      if (auto fits = check_mapped(item.pos); !fits) return fits;
    }
  }

  Status read_keys(const LogItem& item) {
    result_.ksets++;
    if (dirty_) result_.dirty_ksets++;
    for (uint32_t i = 0; i < item.keys.size(); i++)
      if (auto valid = validate_key(item.keys[i], bounds_); !valid)
        return bad_key(item.pos, i, valid.error());
    for (uint32_t i = 0; i < item.keys.size(); i++)
      if (auto read = read_key(item.keys[i], item.pos, i); !read)
        return bad_key(item.pos, i, read.error());
    return {};
  }

  // Counts a valid key's reference, and has it put into the index, or its range forgotten if it is
  // dead.
  Status read_key(const Key& key, CachePos kset, uint32_t i) {
    const SegId seg{key.cache_seg_id};
    PCACHE_DCHECK(seg.v < segments_.size());  // validate_key() has checked it
    const Extent extent{key.off, key.len};
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
        result_.lost.add(extent);
      }
      if (hazard(Hazard::kDeadKeyUsed))
        changes_.insert(extent, Location{CachePos{seg, key.cache_seg_off}, true, key.data_crc},
                        kset, i);
      else
        changes_.erase(extent, kset, i);
      return {};
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
      if (!result_.lost.empty()) result_.lost.remove(extent);
    }
    // The backing device has them, too: see Settler. Older keys of the range do not count any more
    // (hazard zeros-come-back).
    if (!clean || !zeros)
      changes_.insert(
          extent, Location{CachePos{seg, key.cache_seg_off}, clean, key.data_crc, zeros}, kset, i);
    else if (!hazard(Hazard::kZerosComeBack))
      changes_.erase(extent, kset, i);
    return {};
  }

  // Zeros name more than they store; of them there can be no more than the device has. Of what is
  // in the index already.
  Status check_mapped(CachePos read_to) const {
    if (index_.mapped_bytes() <=
        uint64_t{segments_.size()} * media::kSegDataBytes + result_.dirty_zero_bytes)
      return {};
    return make_error(EUCLEAN,
                      "log up to segment %u:%u: its keys name more data than the cache can hold",
                      read_to.seg.v, read_to.off);
  }

  SegmentTable& segments_;
  Index& index_;
  const Tails& tails_;
  const Bounds& bounds_;
  const bool flush_seen_;
  bool dirty_ = false;  // dirty_tail has been reached
  KsetCopies copies_;
  ReplayResult result_;
  IndexChanges changes_;
};

}  // namespace

Result<ReplayResult> replay(const Pmem& pmem, SegmentTable& segments, Index& index,
                            const Tails& tails, const Bounds& bounds, unsigned threads,
                            bool flush_seen) {
  PCACHE_CHECK(bounds.n_segs == segments.size() && threads >= 1);
  return Replay(segments, index, tails, bounds, threads, flush_seen).run(pmem);
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
    for (uint32_t i = 0; i < item.keys.size(); i++) {
      const Key& key = item.keys[i];
      if (auto valid = validate_key(key, bounds); !valid)
        return bad_key(item.pos, i, valid.error());
      const SegId seg{key.cache_seg_id};
      if (key.seg_gen > segments.generation(seg)) segments.raise_generation(seg, key.seg_gen);
    }
  }
}

}  // namespace pcache
