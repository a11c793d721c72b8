// SPDX-License-Identifier: GPL-2.0-or-later
// EvictionPolicy: what a cache of clean and dirty pages in one log keeps. All data is appended at
// the log's head, and space comes free at its tail alone. The cache tells the policy of a page
//   - that a read has missed it (admits()): is it kept, or only handed to the reader?
//   - that a write has stored it (wrote()): it is kept always
//   - that a read has hit it, if its mark asks for that (told_of_hit())
//   - that it is clean and has come to the tail (stays()): is it appended once more, or given up?
//
// kFifo and kSecondChance follow one rule (keeper.h). kAdaptive follows the rule that would have
// missed least of a sample of the accesses (sampled_duel.h).
//
// A mark is a byte that the cache has for each page of the log. It is all that a read hit touches:
//
//   if (mark != Mark::kHit) mark = policy.told_of_hit(page, has_room);
//
// which is so once for most pages, and at each hit for pages of the sample. Relaxed loads and
// stores do: a mark that is lost costs a copy or a miss. A page that is appended has Mark::kNotHit.
//
// A page is a number, such as its offset on the device by its size. The policy does not know which
// pages the cache holds.
//
// Memory: 2 bytes for each page of the capacity and 100 KiB (kAdaptive), else next to nothing; all
// of it from make() and set_kind(). Nothing else fails or blocks. As long as one thread alone calls
// it, it answers the same sequence of calls with the same answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "policy/admission.h"
#include "policy/keeper.h"
#include "policy/page_hash.h"
#include "policy/sampled_duel.h"

namespace pcache::policy {

enum class PolicyKind : uint8_t { kFifo, kSecondChance, kAdaptive };

enum class Mark : uint8_t {
  kNotHit = 0,
  kHit = 1,        // at least once; the policy need not be told again
  kHitSample = 2,  // at least once; the policy is told each time
};

class EvictionPolicy {
 public:
  // For a log of so many pages, at least 1. Throws std::bad_alloc.
  static std::unique_ptr<EvictionPolicy> make(PolicyKind kind, uint64_t capacity_pages);

  // A read has missed so many pages from this one on: whether the cache keeps what it reads from
  // the device. With `has_room` (nothing need be given up for it, as in a new cache) always. Once
  // for each miss: the answer depends on how often it was asked. Any thread.
  bool admits(uint64_t page, uint64_t pages, bool has_room);

  // A write has stored so many pages. Any thread.
  void wrote(uint64_t page, uint64_t pages) {
    if (Sample* const sample = this->sample())
      (void)show(*sample, page, pages, /*write=*/true, /*has_room=*/false);
  }

  // A read has hit the page: its new mark. `has_room` as above. Any thread.
  Mark told_of_hit(uint64_t page, bool has_room);

  // An extent of so many pages could be given up at the tail: whether it is appended once more. Its
  // mark is that of any page that was hit. Not all stay, see Keeper.
  // Not for dirty data, which is never given up. What is superseded has Mark::kNotHit. One thread
  // at a time.
  bool stays(Mark mark, uint64_t pages = 1, bool in_a_hurry = false) {
    return keeper_.stays(rule(), mark != Mark::kNotHit, pages, in_a_hurry);
  }

  // Writes of pages whose sample_place() is at most that need be told, of others not.
  uint64_t sample_limit() const {
    const Sample* const sample = this->sample();
    return sample ? sample->duel.sample_limit() : 0;
  }

  PolicyKind kind() const { return kind_.load(std::memory_order_acquire); }
  // Follows another from now on. What kAdaptive goes by is made the first time, for a log of so
  // many pages, and goes on with its sample under another kind. True: it is made now, and knows of
  // nothing before. One thread at a time, beside others that ask. Throws std::bad_alloc: nothing
  // has changed.
  bool set_kind(PolicyKind kind, uint64_t capacity_pages);

  // What it follows now, and how often that has changed. Any thread.
  Rule rule() const {
    const PolicyKind now = kind();
    if (now == PolicyKind::kAdaptive) return sample()->duel.leader();
    return now == PolicyKind::kFifo ? Rule::kFifo : Rule::kSecondChance;
  }
  uint64_t changes() const {
    const Sample* const sample = this->sample();
    return sample ? sample->duel.changes() : 0;
  }

 private:
  // What kAdaptive goes by.
  struct Sample {
    explicit Sample(uint64_t capacity_pages)
        : duel(capacity_pages), admission(capacity_pages, /*ghosts=*/true) {}
    SampledDuel duel;
    Admission admission;
  };

  EvictionPolicy(PolicyKind kind, uint64_t capacity_pages);
  // nullptr: it was never kAdaptive.
  Sample* sample() const { return sample_.load(std::memory_order_acquire); }
  // Those of the pages that are of the sample. Whether any is.
  static bool show(Sample& sample, uint64_t page, uint64_t pages, bool write, bool has_room) {
    bool any = false;
    for (uint64_t at = page; at < page + pages; at++) {
      if (!sample.duel.is_sampled(at)) continue;
      sample.duel.access(at, page_hash(at), write, has_room);
      any = true;
    }
    return any;
  }

  Keeper keeper_;
  std::unique_ptr<Sample> made_;          // of who sets the kind
  std::atomic<Sample*> sample_{nullptr};  // made_
  std::atomic<PolicyKind> kind_;          // stored after it
};

// For a status.
const char* name_of(PolicyKind kind);
const char* name_of(Rule rule);

}  // namespace pcache::policy
