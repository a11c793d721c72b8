// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/segment_table.h"

#include "base/mutants.h"

namespace pcache {

SegmentTable::SegmentTable(Pmem& pmem, Options options)
    : pmem_(pmem),
      segments_(options.chain.size()),
      log_reserve_(hazard(Hazard::kNoLogReserve) ? 0 : options.log_reserve) {
  MutexLock lock(mu_);
  for (size_t i = 0; i < segments_.size(); i++) {
    Segment& s = segments_[i];
    s.data_off = segment_data_off(options.chain[i]).v;
    s.record = Replicated<media::SegmentGen>(segment_gen_place(options.chain[i]));
  }
  free_ = size();
  if (options.formatted) load_all();
}

void SegmentTable::load_generations() {
  MutexLock lock(mu_);
  load_all();
}

void SegmentTable::load_all() {
  torn_records_ = 0;
  for (Segment& s : segments_) {
    if (auto record = s.record.load(pmem_)) s.gen.store(record->gen, std::memory_order_relaxed);
    // One never-written slot is normal: the first record of a life goes to slot 1 alone.
    const bool both_bad =
        s.record.state(0) != ReplicaState::kValid && s.record.state(1) != ReplicaState::kValid;
    if (both_bad) torn_records_++;
  }
}

void SegmentTable::persist_generation(Segment& segment, uint64_t gen, const CodeSite& site) {
  media::SegmentGen record{};
  record.gen = gen;
  segment.record.write(pmem_, record, site);
  pmem_.fence(site);
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
  for (Segment& s : segments_)
    if (s.raised) {
      persist_generation(s, s.gen.load(std::memory_order_relaxed));
      s.raised = false;
    }
}

void SegmentTable::replay_log_segment(SegId seg) {
  MutexLock lock(mu_);
  Segment& s = segments_[seg.v];
  PCACHE_CHECK(s.use == SegmentUse::kFree);
  s.use = SegmentUse::kLog;
  free_--;
  log_++;
}

bool SegmentTable::replay_first_key(SegId seg) {
  MutexLock lock(mu_);
  Segment& s = segments_[seg.v];
  if (s.use == SegmentUse::kLog) return false;
  if (s.use == SegmentUse::kFree) {
    s.use = SegmentUse::kData;
    free_--;
  }
  s.refs.store(1, std::memory_order_relaxed);
  return true;
}

std::optional<SegId> SegmentTable::take(SegmentUse use, uint32_t keep_free) {
  std::optional<SegId> seg;
  {
    MutexLock lock(mu_);
    seg = find_free(use, keep_free);
  }
  if (seg && events_.taken) events_.taken();
  return seg;
}

std::optional<SegId> SegmentTable::find_free(SegmentUse use, uint32_t keep_free) {
  if (free_ <= keep_free) return std::nullopt;
  for (uint32_t n = 0; n < size(); n++) {
    const uint32_t i = next_;
    next_ = next_ + 1 == size() ? 0 : next_ + 1;
    Segment& s = segments_[i];
    if (s.use != SegmentUse::kFree) continue;
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

std::optional<SegId> SegmentTable::take_for_log() { return take(SegmentUse::kLog, 0); }

std::optional<SegId> SegmentTable::take_for_data() { return take(SegmentUse::kData, log_reserve_); }

void SegmentTable::finish_filling(SegId seg, int64_t keys) { drop_refs(seg, kFillingBias - keys); }

void SegmentTable::add_refs(SegId seg, int64_t n) {
  if (n != 0) segments_[seg.v].refs.fetch_add(n, std::memory_order_relaxed);
}

void SegmentTable::drop_refs(SegId seg, int64_t n) {
  if (n == 0) return;
  const int64_t before = segments_[seg.v].refs.fetch_sub(n, std::memory_order_acq_rel);
  PCACHE_CHECK(before >= n);  // hazard 26: a reference dropped that was never taken
  if (before == n) release(seg);
}

void SegmentTable::release(SegId seg) {
  {
    MutexLock lock(mu_);
    Segment& s = segments_[seg.v];
    PCACHE_CHECK(s.use == SegmentUse::kData);
    const uint64_t last = s.gen.load(std::memory_order_relaxed);
    if (last == UINT64_MAX) return;  // not again in this attach
    const uint64_t gen = last + 1;
    if (!hazard(Hazard::kReuseBeforeDurable)) persist_generation(s, gen);
    s.gen.store(gen, std::memory_order_release);
    s.use = SegmentUse::kFree;
    free_++;
  }
  if (events_.freed) events_.freed();
}

void SegmentTable::release_log(SegId seg) {
  {
    MutexLock lock(mu_);
    Segment& s = segments_[seg.v];
    PCACHE_CHECK(s.use == SegmentUse::kLog);
    s.use = SegmentUse::kFree;
    free_++;
    log_--;
  }
  if (events_.freed) events_.freed();
}

SegmentCounts SegmentTable::counts() const {
  MutexLock lock(mu_);
  return {size(), free_, log_, size() - free_ - log_, log_reserve_};
}

}  // namespace pcache
