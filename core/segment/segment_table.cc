// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/segment_table.h"

#include <algorithm>
#include <new>
#include <type_traits>

#include "base/mutants.h"
#include "segment/space_policy.h"

namespace pcache {

SegmentTable::SegmentTable(Pmem& pmem, const Options& options)
    : pmem_(pmem), log_reserve_(hazard(Hazard::kNoLogReserve) ? 0 : options.log_reserve) {
  static_assert(std::is_trivially_destructible_v<Segment>);
  const auto segments = static_cast<uint32_t>(options.chain.size());
  memory_.map(std::max(segments, 1u) * sizeof(Segment),
              uint64_t{std::max({segments, options.most_segments, 1u})} * sizeof(Segment),
              "the segments");
  segments_ = reinterpret_cast<Segment*>(memory_.base());
  MutexLock lock(mu_);
  for (uint32_t i = 0; i < segments; i++) make(i, options.chain[i]);
  size_.store(segments, std::memory_order_release);
  free_ = segments;
  if (options.formatted) load_all();
}

void SegmentTable::make(uint32_t i, uint32_t physical) {
  Segment& s = *new (&segments_[i]) Segment;
  s.data_off = segment_data_off(physical).v;
  s.record = Replicated<media::SegmentGen>(segment_gen_place(physical));
}

Status SegmentTable::make_room(uint32_t segments) {
  return memory_.grow(uint64_t{segments} * sizeof(Segment));
}

void SegmentTable::add(std::span<const uint32_t> physical, uint32_t log_reserve) {
  {
    MutexLock lock(mu_);
    const uint32_t before = size(), added = static_cast<uint32_t>(physical.size());
    free_ += added;
    for (uint32_t i = 0; i < added; i++) {
      make(before + i, physical[i]);
      load(segments_[before + i]);
    }
    if (!hazard(Hazard::kNoLogReserve)) log_reserve_ = log_reserve;
    size_.store(before + added, std::memory_order_release);
  }
  if (events_.freed) events_.freed();
}

void SegmentTable::load_generations() {
  MutexLock lock(mu_);
  load_all();
}

uint64_t SegmentTable::reload_generation(SegId seg) {
  MutexLock lock(mu_);
  Segment& s = segments_[seg.v];
  if (const auto record = s.record.load(pmem_)) s.gen.store(record->gen, std::memory_order_release);
  return s.gen.load(std::memory_order_relaxed);
}

void SegmentTable::load(Segment& segment) {
  const auto& record = segment.record;
  if (auto found = segment.record.load(pmem_))
    segment.gen.store(found->gen, std::memory_order_relaxed);
  // One never-written slot is normal: a format writes the first record to slot 1 alone.
  if (record.state(0) != ReplicaState::kValid && record.state(1) != ReplicaState::kValid)
    torn_records_++;
  // A segment that cannot store its next generation is retired: it is not handed out.
  if (record.state(0) == ReplicaState::kUnreadable || record.state(1) == ReplicaState::kUnreadable)
    mark_retired(segment);
}

void SegmentTable::load_all() {
  torn_records_ = 0;
  for (Segment& s : all()) load(s);
}

void SegmentTable::set_events(Events events) {
  events_ = std::move(events);
  for (uint32_t i = 0; i < size(); i++) {
    bool retired;
    {
      MutexLock lock(mu_);
      retired = segments_[i].retired;
    }
    if (retired) tell_retired(SegId{i});
  }
}

bool SegmentTable::persist_generation(Segment& segment, uint64_t gen, const CodeSite& site) {
  media::SegmentGen record{};
  record.gen = gen;
  if (!segment.record.write(pmem_, record, site)) return false;
  pmem_.fence(site);
  return true;
}

void SegmentTable::raise_generation(SegId seg, uint64_t gen) {
  MutexLock lock(mu_);
  Segment& s = segments_[seg.v];
  PCACHE_CHECK(gen > s.gen.load(std::memory_order_relaxed));
  s.gen.store(gen, std::memory_order_release);
  s.raised = true;
}

void SegmentTable::persist_raised() {
  MutexLock lock(mu_);
  for (Segment& s : all())
    if (s.raised) {
      // If it cannot be stored, the log proves it again at the next attach.
      if (!persist_generation(s, s.gen.load(std::memory_order_relaxed))) mark_retired(s);
      s.raised = false;
    }
}

void SegmentTable::replay_log_segment(SegId seg) {
  MutexLock lock(mu_);
  Segment& s = segments_[seg.v];
  take_out(s);
  s.use = SegmentUse::kLog;
  log_++;
}

// Takes a segment that is free or retired out of that count: replay finds that it holds something.
void SegmentTable::take_out(const Segment& segment) {
  PCACHE_CHECK(segment.use == SegmentUse::kFree || segment.use == SegmentUse::kRetired);
  uint32_t& count = segment.use == SegmentUse::kFree ? free_ : out_of_use_;
  PCACHE_CHECK(count > 0);
  count--;
}

bool SegmentTable::replay_first_key(SegId seg) {
  MutexLock lock(mu_);
  Segment& s = segments_[seg.v];
  if (s.use == SegmentUse::kLog) return false;
  if (s.use != SegmentUse::kData) {
    take_out(s);
    s.use = SegmentUse::kData;
  }
  s.refs.store(1, std::memory_order_relaxed);
  return true;
}

std::optional<SegId> SegmentTable::take(SegmentUse use) {
  std::optional<SegId> seg;
  {
    MutexLock lock(mu_);
    seg = find_free(use);
  }
  if (seg && events_.taken) events_.taken(*seg);
  return seg;
}

std::optional<SegId> SegmentTable::find_free(SegmentUse use) {
  if (free_ <= (use == SegmentUse::kData ? log_reserve_ : 0)) return std::nullopt;
  for (uint32_t n = 0; n < size(); n++) {
    const uint32_t i = next_;
    next_ = next_ + 1 == size() ? 0 : next_ + 1;
    Segment& s = segments_[i];
    if (s.use != SegmentUse::kFree) continue;
    PCACHE_CHECK(free_ > 0 && (!s.retired || hazard(Hazard::kRetiredHandedOut)));
    s.use = use;
    free_--;
    if (use == SegmentUse::kLog)
      log_++;
    else
      s.refs.store(kFillingBias, std::memory_order_relaxed);
    return SegId{i};
  }
  PCACHE_CHECK(!"a free segment was counted and not found");
  return std::nullopt;
}

// Reads all of a segment before the log leads to it: a log whose head is on a bad page cannot lead
// on. It takes some milliseconds, once in an attach.
std::optional<SegId> SegmentTable::take_for_log() {
  for (uint32_t tried = 0; tried < size(); tried++) {
    const auto seg = take(SegmentUse::kLog);
    if (!seg || probe(*seg)) return seg;
    retire(*seg);
    release_log(*seg);
  }
  return std::nullopt;
}

bool SegmentTable::probe(SegId seg) {
  Segment& s = segments_[seg.v];
  {
    MutexLock lock(mu_);
    if (s.probed) return true;
  }
  if (!pmem_.readable(MediaOff{s.data_off}, media::kSegDataBytes)) return false;
  MutexLock lock(mu_);
  s.probed = true;
  return true;
}

std::optional<SegId> SegmentTable::take_for_data() { return take(SegmentUse::kData); }

void SegmentTable::finish_filling(SegId seg, int64_t keys) {
  PCACHE_CHECK(keys >= 0 && keys < kFillingBias);
  drop_refs(seg, kFillingBias - keys);
}

void SegmentTable::add_refs(SegId seg, int64_t n) {
  PCACHE_DCHECK(seg.v < size());
  if (n != 0) segments_[seg.v].refs.fetch_add(n, std::memory_order_relaxed);
}

void SegmentTable::drop_refs(SegId seg, int64_t n) {
  if (n == 0) return;
  const int64_t before = segments_[seg.v].refs.fetch_sub(n, std::memory_order_acq_rel);
  PCACHE_CHECK(before >= n);  // else hazard dead-key-references
  if (before == n) release(seg);
}

bool SegmentTable::put_back(Segment& segment) {
  segment.use = segment.retired ? SegmentUse::kRetired : SegmentUse::kFree;
  (segment.retired ? out_of_use_ : free_)++;
  PCACHE_CHECK(free_ + out_of_use_ <= size());
  return !segment.retired;
}

void SegmentTable::release(SegId seg) {
  bool is_free, is_new = false;
  {
    MutexLock lock(mu_);
    Segment& s = segments_[seg.v];
    PCACHE_CHECK(s.use == SegmentUse::kData);
    PCACHE_DCHECK(s.refs.load(std::memory_order_relaxed) == 0);
    const uint64_t last = s.gen.load(std::memory_order_relaxed);
    if (last == UINT64_MAX) return;  // not handed out again in this attach
    const uint64_t gen = last + 1;
    if (!s.retired) {
      if (!hazard(Hazard::kReuseBeforeDurable) && !persist_generation(s, gen))
        is_new = mark_retired(s);
      else
        s.gen.store(gen, std::memory_order_release);
    }
    is_free = put_back(s);
  }
  if (is_new) tell_retired(seg);
  if (is_free && events_.freed) events_.freed();
}

void SegmentTable::release_log(SegId seg) {
  bool is_free;
  {
    MutexLock lock(mu_);
    Segment& s = segments_[seg.v];
    PCACHE_CHECK(s.use == SegmentUse::kLog && log_ > 0);
    is_free = put_back(s);
    log_--;
  }
  if (is_free && events_.freed) events_.freed();
}

bool SegmentTable::mark_retired(Segment& segment) {
  if (segment.retired || hazard(Hazard::kRetiredHandedOut)) return false;
  segment.retired = true;
  retired_++;
  if (segment.use == SegmentUse::kFree) {
    segment.use = SegmentUse::kRetired;
    free_--;
    out_of_use_++;
  }
  return true;
}

void SegmentTable::retire(SegId seg) {
  bool is_new;
  {
    MutexLock lock(mu_);
    is_new = mark_retired(segments_[seg.v]);
  }
  if (is_new) tell_retired(seg);
}

// Reports the place: a page to which a store was lost, or else the head of the segment, as its
// generation or any part of it could not be read.
void SegmentTable::tell_retired(SegId seg) {
  if (!events_.retired) return;
  const MediaOff head{segments_[seg.v].data_off - media::kSegDataOff};
  events_.retired(seg, pmem_.first_bad_page(head, media::kSegmentBytes).value_or(head));
}

bool SegmentTable::exhausted_for_log() const {
  MutexLock lock(mu_);
  if (retired_ == 0) return false;
  uint32_t log = 0, others = 0;
  for (const Segment& s : all())
    if (!s.retired) (s.use == SegmentUse::kLog ? log : others)++;
  return others == 0 && log <= 1;  // the segment of the log head
}

bool SegmentTable::exhausted_for_data() const {
  MutexLock lock(mu_);
  return none_left_for_data(size(), retired_, log_reserve_);
}

SegmentCounts SegmentTable::counts() const {
  MutexLock lock(mu_);
  PCACHE_CHECK(uint64_t{free_} + log_ + out_of_use_ <= size() && retired_ >= out_of_use_);
  return {size(), free_, log_, size() - free_ - log_ - out_of_use_, log_reserve_, retired_};
}

}  // namespace pcache
