// SPDX-License-Identifier: GPL-2.0-or-later
// SegmentTable: the cache segments, who uses them, and handing them out.
//
// Invariants
// - A segment is free, a log segment, or a data segment. A data segment is in use while references
//   are held: one for each key of the log or of an open kset that names its current generation, and
//   extra ones (kFillingBias) while a data head fills it. The last reference frees it.
// - The generation of a freed segment is raised, durably, before it can be handed out again. It
//   never wraps, as this would bring keys of old generations back to life: a segment of the last
//   generation, which only damage leads to, is not handed out again.
// - `generation()` changes only when the segment is freed: a reader that sees the same generation
//   before and after its copy has read data of that generation.
// - A segment with a bad page is retired: its content stays, and once empty it counts as taken and
//   is not handed out again in this attach. The next attach meets the page again, at the latest by
//   the first store to it: no record on media says so, and a page that was replaced serves.
// - Data may not take the last `log_reserve` free segments: so the log can always roll, and all
//   that is acknowledged can be made durable and, later, reclaimed (hazard no-log-reserve).
// Threads: generation() and media() from any thread without lock; the rest is locked inside. Events
// are raised with no lock of the table held, in the thread that caused them.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/reservation.h"
#include "format/layout.h"
#include "pmem/pmem.h"

namespace pcache {

enum class SegmentUse : uint8_t { kFree, kLog, kData, kRetired };

struct SegmentCounts {
  uint32_t total = 0, free = 0, log = 0, data = 0, log_reserve = 0;
  uint32_t retired = 0;  // with a bad page; some still hold log or data
};

class SegmentTable {
 public:
  struct Options {
    std::vector<uint32_t> chain;  // physical number of each SegId
    uint32_t log_reserve = 2;
    bool formatted = true;       // false: reads nothing before load_generations()
    uint32_t most_segments = 0;  // to which it may grow, if that is more
  };
  // Loads every segment's generation. A segment with no valid generation record starts at 0, and
  // the keys that replay finds raise it; torn_records() counts such segments.
  // Throws std::bad_alloc.
  SegmentTable(Pmem& pmem, const Options& options);
  // Only while no other thread uses the table.
  void load_generations() EXCLUDES(mu_);
  // Of a table whose segments another process hands out: this one's generation as the media has it
  // now, which generation() gives from then on.
  uint64_t reload_generation(SegId seg) EXCLUDES(mu_);

  // `taken` is for those who free segments, and who know something of what the segment held;
  // `freed` for those who wait for one. They must be short and may not call back. `taken` comes
  // before anything is stored. Set while no other thread uses the table.
  struct Events {
    std::function<void(SegId)> taken;
    std::function<void()> freed = nullptr;
    std::function<void(SegId, MediaOff)> retired = nullptr;  // with the place of its bad page
  };
  // Reports the segments that are retired already, too.
  void set_events(Events events) EXCLUDES(mu_);

  // In this order, while others use the table. Room for `segments` in all. EFBIG: that is more than
  // most_segments; ENOMEM. Then these come behind the others, free: their records are durable, and
  // so is what counts them, since a key may name one at once. One thread at a time.
  Status make_room(uint32_t segments);
  void add(std::span<const uint32_t> physical, uint32_t log_reserve) EXCLUDES(mu_);

  // Who sees a number sees those segments.
  uint32_t size() const { return size_.load(std::memory_order_acquire); }
  // A segment, found once, for several looks. Valid as long as the table.
  class View;
  View view(SegId seg) const;
  MediaOff media(CachePos pos) const {
    PCACHE_DCHECK(pos.seg.v < size() && pos.off <= media::kSegDataBytes);
    return MediaOff{segments_[pos.seg.v].data_off + pos.off};
  }
  uint64_t generation(SegId seg) const {
    PCACHE_DCHECK(seg.v < size());
    return segments_[seg.v].gen.load(std::memory_order_acquire);
  }

  // For replay, in one thread. Nothing is written before persist_raised().
  void raise_generation(SegId seg, uint64_t gen);  // the log has keys of it
  bool holds_keys(SegId seg) const {
    return segments_[seg.v].refs.load(std::memory_order_relaxed) > 0;
  }
  void replay_log_segment(SegId seg);
  // Takes one more reference. False: it is a log segment, so the image is damaged.
  [[nodiscard]] bool replay_key(SegId seg) {
    std::atomic<int64_t>& refs = segments_[seg.v].refs;
    const int64_t held = refs.load(std::memory_order_relaxed);
    if (held == 0) return replay_first_key(seg);
    refs.store(held + 1, std::memory_order_relaxed);  // one thread: no locked instruction
    return true;
  }
  void persist_raised() EXCLUDES(mu_);

  // A segment whose pages could all be read: the log cannot go on from a bad page.
  std::optional<SegId> take_for_log() EXCLUDES(mu_);
  // A segment with extra references for the head that fills it, so that it cannot become free
  // meanwhile; finish_filling() takes them back.
  std::optional<SegId> take_for_data();
  // The head that was filling the segment puts nothing more there. It has handed out `keys` places,
  // and each holds one reference.
  void finish_filling(SegId seg, int64_t keys);
  // `n` keys more than places that were handed out in the segment name it; n < 0: fewer.
  void add_refs(SegId seg, int64_t n);
  // Takes `n` references away. The segment becomes free with the last one.
  void drop_refs(SegId seg, int64_t n = 1);
  // The log has left the segment: key_tail is durable past it (rule durable-before-reuse).
  void release_log(SegId seg);

  // A store to the segment was lost, or a page of it cannot be read.
  void retire(SegId seg) EXCLUDES(mu_);
  // So many segments are retired that none will ever come free for data, or for the log.
  bool exhausted_for_data() const EXCLUDES(mu_);
  bool exhausted_for_log() const EXCLUDES(mu_);

  SegmentCounts counts() const;
  uint32_t torn_records() const { return torn_records_; }

 private:
  struct Segment {
    std::atomic<uint64_t> gen{0};
    std::atomic<int64_t> refs{0};
    uint64_t data_off = 0;
    bool raised = false;                   // under mu_
    bool retired = false;                  // under mu_
    bool probed = false;                   // under mu_; all of it could be read
    SegmentUse use = SegmentUse::kFree;    // under mu_
    Replicated<media::SegmentGen> record;  // under mu_
  };
  static constexpr int64_t kFillingBias = int64_t{1} << 40;

  std::span<Segment> all() const { return {segments_, size()}; }
  void make(uint32_t i, uint32_t physical);
  void load(Segment& segment) REQUIRES(mu_);
  void load_all() REQUIRES(mu_);
  bool replay_first_key(SegId seg) EXCLUDES(mu_);
  void take_out(const Segment& segment) REQUIRES(mu_);
  std::optional<SegId> take(SegmentUse use) EXCLUDES(mu_);
  std::optional<SegId> find_free(SegmentUse use) REQUIRES(mu_);
  void release(SegId seg) EXCLUDES(mu_);
  // Takes it out of use: it is free then (true), or retired.
  bool put_back(Segment& segment) REQUIRES(mu_);
  bool mark_retired(Segment& segment) REQUIRES(mu_);
  void tell_retired(SegId seg);
  bool probe(SegId seg) EXCLUDES(mu_);
  [[nodiscard]] bool persist_generation(Segment& segment, uint64_t gen,
                                        const CodeSite& site = CodeSite::current()) REQUIRES(mu_);

  Pmem& pmem_;
  Reservation memory_;
  Segment* segments_ = nullptr;  // in memory_
  std::atomic<uint32_t> size_{0};
  Events events_;
  uint32_t torn_records_ = 0;
  mutable Mutex mu_{LockRank::kSegments};
  uint32_t log_reserve_ GUARDED_BY(mu_);
  uint32_t free_ GUARDED_BY(mu_) = 0;
  uint32_t log_ GUARDED_BY(mu_) = 0;
  uint32_t retired_ GUARDED_BY(mu_) = 0;
  uint32_t out_of_use_ GUARDED_BY(mu_) = 0;  // retired and empty
  uint32_t next_ GUARDED_BY(mu_) = 0;        // where the search for a free one goes on
};

class SegmentTable::View {
 public:
  MediaOff media(uint32_t off) const { return MediaOff{segment_.data_off + off}; }
  uint64_t generation() const { return segment_.gen.load(std::memory_order_acquire); }

 private:
  friend class SegmentTable;
  explicit View(const Segment& segment) : segment_(segment) {}
  const Segment& segment_;
};

inline SegmentTable::View SegmentTable::view(SegId seg) const { return View(segments_[seg.v]); }

}  // namespace pcache
