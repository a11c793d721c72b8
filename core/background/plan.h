// SPDX-License-Identifier: GPL-2.0-or-later
// BatchPlan: what one batch of writeback will do, as a value. It says which keys of the log the
// batch passes, up to where, and what of their data goes to the backing device, in the device's
// order.
//
// make_plan() is given the log through a KsetSource and reads nothing else. It needs no index: it
// sees by the keys themselves what a later key of the batch supersedes. So a process that has
// mapped the pmem, and knows nothing but the log, can plan as well. Who has an index says by
// PlanOptions::fate what keys behind the batch supersede.
//
// Invariants
// - With PlanOptions::strict a plan does not reach past the end of the epoch of its first key to
//   be written. What comes before that key in the log is only passed, whatever its epoch. Each kset
//   says whether an epoch begins with it (kKsetSameEpoch), also to who has not written the log.
// - A plan ends where a kset ends.
// - Of each sector the newest data of the batch is written; pieces ascend and do not overlap.
// - With it, batches that are under way at the same time are of one epoch
//   (PlanOptions::in_epoch), or the backing device alone might be a state that no barrier allows.
//   None of them writes what another
//   one writes (PlanOptions::busy), or the older data might come last.
// One thread for each call.
#pragma once

#include <functional>

#include "background/dirty_batch.h"
#include "keylog/key_log.h"
#include "keylog/log_cursor.h"

namespace pcache {

// What planning sees of a cache: the log from some kset on.
class KsetSource {
 public:
  virtual ~KsetSource() = default;
  // As LogCursor::next().
  virtual Result<LogItem> next() = 0;
  // Whether the key names data of its segment's present life; a dead key's data is gone.
  virtual bool is_live(const media::Key& key) const = 0;
};

// The log on media, up to `until`.
class LogKsets final : public KsetSource {
 public:
  LogKsets(const Pmem& pmem, const SegmentTable& segments, CachePos from, CachePos until)
      : segments_(segments), cursor_(pmem, segments, from, {.until = until}) {}
  Result<LogItem> next() override { return cursor_.next(); }
  bool is_live(const media::Key& key) const override {
    return key.seg_gen == segments_.generation(SegId{key.cache_seg_id});
  }

 private:
  const SegmentTable& segments_;
  LogCursor cursor_;
};

enum class KeyFate : uint8_t {
  kWrite,
  kPass,        // it was damaged, and nothing of it counts any more
  kSuperseded,  // by later keys, durable before this one is passed: its data need not be written
  kMove,        // its data is to be copied to a new place, under a key that is durable as above
  kKeep,        // its data is known to be damaged: it is passed, and appended again
};

struct BatchPlan {
  static constexpr uint64_t kNoEpoch = UINT64_MAX;

  LogMark begin, end;
  uint64_t epoch_from = kNoEpoch;  // the kset of its first key to be written, in ksets
  DirtyBatch batch;                // the keys to be written
  std::vector<DirtyBatch::Piece> pieces;
  std::vector<media::Key> damaged;  // the keys to be kept
  std::vector<media::Key> moves;    // the keys whose data is to be moved
  uint64_t moved_bytes = 0;         // of these
  // Of the keys to be written, what is zeros: many keys name one place.
  uint64_t zero_keys = 0, zero_bytes = 0;
  uint64_t superseded_zero_bytes = 0;
  uint64_t costly_zero_bytes = 0;                      // that the device may have to write
  uint64_t superseded_keys = 0, superseded_bytes = 0;  // as appended
  // The kset of the first key that later ones supersede, or that is moved, in ksets.
  uint64_t passed_from = kNoEpoch;
  // Of what it passes, the copies that moves have made whose own plan was given up. The planner
  // does not know of them.
  uint64_t copied_bytes = 0;
  uint64_t other_keys = 0;     // that are passed and in none of these
  uint64_t planned_bytes = 0;  // of the pieces

  // As appended, without zeros: of what is neither superseded nor damaged; and with what is
  // superseded.
  uint64_t live_bytes() const { return batch.appended_bytes() - zero_bytes + moved_bytes; }
  uint64_t passed_bytes() const { return live_bytes() + superseded_bytes; }
  // What comes free when it is passed and reclaimed: a copy takes as much as it frees.
  uint64_t freed_bytes() const { return passed_bytes() - moved_bytes - copied_bytes; }
  bool empty() const { return end.ksets == begin.ksets; }
  bool writes_data() const { return batch.keys().size() > zero_keys; }
  // Passing nothing but damaged data would only append it again.
  bool has_only_damaged() const {
    return batch.keys().empty() && moves.empty() && superseded_keys + other_keys == 0 &&
           !damaged.empty();
  }
  bool writes_to(const Extent& extent) const;
};

struct PlanOptions {
  LogMark from;
  uint64_t end_ksets = 0;    // no kset from there on; more than from.ksets
  uint64_t batch_bytes = 0;  // a plan ends with the kset that reaches it, by passed_bytes(), and
                             // costly_zero_bytes
  // Zeros count as data, and not only those that are no hole: the device has to write them.
  bool zeros_count = false;
  bool strict = true;  // as in the invariants
  // strict: the kset in front of `from` is of an epoch of which batches are under way, and the plan
  // is of no other.
  bool in_epoch = false;
  // The log may end before end_ksets, and so does the plan: for who does not know its head.
  bool ends_with_log = false;
  // What is known of a key's data, which is in a kset of this number; nothing: every live key is
  // written that is not clean.
  std::function<KeyFate(const media::Key&, uint64_t kset)> fate = nullptr;
  // Called for the keys of each kset before fate().
  std::function<void(std::span<const media::Key>)> prefetch = nullptr;
  // Whether another batch under way writes to it: the plan ends in front of such a key's kset.
  std::function<bool(const Extent&)> busy = nullptr;
};

// make_plan() takes no further kset once the plan has this many keys.
inline constexpr size_t kMostPlannedKeys = 1 << 20;

// Into `plan`, whose memory is used again. It may be empty(). An error: the first kset cannot be
// read, or the log ends too early. May throw std::bad_alloc.
Status make_plan(KsetSource& log, const PlanOptions& options, BatchPlan* plan);

}  // namespace pcache
