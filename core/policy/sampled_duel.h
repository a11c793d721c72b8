// SPDX-License-Identifier: GPL-2.0-or-later
// SampledDuel: which rule a cache should follow. A shadow log for each rule is shown the accesses
// to a sample of the pages, and they duel (shadow_log.h, duel.h).
//
// The sample is as small as leaves each shadow log 512 pages (or 1023, since it is halved); all
// pages, when the cache has fewer than that. With 2048 as many accesses of the published traces
// missed, and four times as many were shown. An access to it takes 0.2 to 1 us.
// About 100 KiB, however large the cache.
//
// Any thread. When two threads come at once, the access of one is not counted.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/mutex.h"
#include "policy/duel.h"
#include "policy/keeper.h"
#include "policy/page_hash.h"
#include "policy/shadow_log.h"

namespace pcache::policy {

class SampledDuel {
 public:
  // Throws std::bad_alloc.
  explicit SampledDuel(uint64_t capacity_pages);

  uint64_t sample_limit() const { return sample_limit_; }
  bool is_sampled(uint64_t page) const { return sample_place(page) <= sample_limit_; }

  // A read or a write of a page of the sample; `hash` is page_hash(page); `has_room` as in
  // ShadowLog.
  void access(uint64_t page, uint64_t hash, bool write, bool has_room);

  // What to follow now, and how often that has changed.
  Rule leader() const { return leader_.load(std::memory_order_relaxed); }
  uint64_t changes() const { return changes_.load(std::memory_order_relaxed); }

 private:
  // Pages that all shadow logs have had at their last access. To access one again changes next to
  // nothing, and the most accessed page of all may be in the sample: it should not be locked for.
  std::atomic<uint64_t>& place_in_held(uint64_t hash) { return held_[hash >> 58]; }

  const uint64_t sample_limit_;
  std::atomic<Rule> leader_;
  std::atomic<uint64_t> changes_{0};
  std::array<std::atomic<uint64_t>, 64> held_{};

  Mutex mu_;
  std::array<ShadowLog, kRules> shadows_ GUARDED_BY(mu_);  // by rule
  Duel<kRules> duel_ GUARDED_BY(mu_);
};

}  // namespace pcache::policy
