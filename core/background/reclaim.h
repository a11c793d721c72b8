// SPDX-License-Identifier: GPL-2.0-or-later
// Reclaim (the kernel target's GC): from key_tail up to dirty_tail, forgets the keys of the oldest
// ksets and frees the segments that nothing names any more.
//
// What a step does, and what a crash after each line leaves:
//   | clean data that stays is moved                 the old key counts, or both do: same data
//   1. the other keys leave the index                (DRAM only)
//   2. key_tail is moved past their ksets, durably   no replay sees them; their segments are free
//   3. their references are dropped; a segment that loses its last is freed with its next
//      generation durable, a log segment is freed    done
//
// Invariants
// - It passes only what writeback has passed, so what it forgets is on the backing device. Dirty
//   data that was damaged, moved or superseded has a later key (see Writeback), and stays in the
//   index.
// - A reference is dropped for exactly those keys for which one was taken: those of their segment's
//   current generation (hazard dead-key-references).
// - A segment that a move copies from still has its references (hazard freed-before-moved).
// - A key's own range leads to its place in the index: nothing is searched for dead keys (hazard
//   scan-for-dead-keys).
// One thread at a time.
#pragma once

#include "background/mover.h"
#include "base/counter.h"
#include "parts/parts.h"
#include "segment/space_policy.h"

namespace pcache {

class Reclaim {
 public:
  explicit Reclaim(const Parts& parts);

  // How much stays of what the policy keeps.
  enum class Keep : uint8_t {
    kNothing,
    kLittle,  // somebody waits for space: see Keeper
    kAll,
  };
  // False: key_tail stands at dirty_tail. ENOMEM: nothing is changed.
  Result<bool> step(Keep keep = Keep::kAll);

#define PCACHE_RECLAIM_COUNTERS(X)                                        \
  X(ksets, "ksets", "taken out of the log")                               \
  X(keys, "keys", "of them")                                              \
  X(dead_keys, "dead_keys", "of them, whose segment has been used again") \
  X(forgotten_bytes, "forgotten_bytes", "taken out of the index")         \
  X(bad_clean, "bad_clean_extents", "whose damage needs no care now")     \
  X(errors, "errors", "steps that failed")
  struct Counters {
    PCACHE_RECLAIM_COUNTERS(PCACHE_COUNTER_MEMBER)
  };
  const Counters& counters() const { return counters_; }
  // What stayed; nullptr: readonly.
  const Mover::Counters* kept() const { return mover_ ? &mover_->counters() : nullptr; }

 private:
  Result<CachePos> collect();  // returns where the step ends
  void keep_what_stays(Keep keep);
  bool is_cached(const media::Key& key) const;
  uint64_t forget_keys();
  void count_forgotten(const media::Key& key, uint64_t bytes);
  void drop_references();
  void release_log_segments();

  const Parts& parts_;
  // Of a step, those keys that hold a reference: as in the log, and those of a stripe in a row.
  std::vector<media::Key> keys_, by_stripe_;
  std::vector<SegId> log_segments_;
  std::unique_ptr<Mover> mover_;                           // nullptr: readonly
  std::vector<media::Key> stay_;                           // of one stripe
  uint64_t ksets_ = 0, dead_keys_ = 0, passed_bytes_ = 0;  // of a step
  Counters counters_;
};

inline constexpr auto kReclaimCounters =
    PCACHE_COUNTER_TABLE(Reclaim::Counters, PCACHE_RECLAIM_COUNTERS);

}  // namespace pcache
