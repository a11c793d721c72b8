// SPDX-License-Identifier: GPL-2.0-or-later
// Retention: the eviction policy of a cache, and the marks of what it holds: a byte for each 4 KiB
// of the cache device.
//
// A mark is 0 (not hit), 1 (hit), or more: hit, and of the policy's sample. Of hits of the latter
// the policy is told the first since the data was stored here, and one in kTellOneIn: what is hit
// often is hit under every rule.
//
// A page is 4 KiB of the backing device. An extent is hit if any of its places is: what was stored
// together comes and goes together.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/ids.h"
#include "format/media.h"
#include "policy/eviction_policy.h"

namespace pcache::policy {

class Retention {
 public:
  // `capacity_bytes`: of the data that the cache keeps, about. Throws std::bad_alloc.
  Retention(PolicyKind kind, uint64_t media_bytes, uint64_t capacity_bytes)
      : kind_(kind),
        policy_(EvictionPolicy::make(kind, std::max<uint64_t>(capacity_bytes / kPageBytes, 1))),
        sample_limit_(policy_->sample_limit()),
        marks_(std::make_unique<std::atomic<uint8_t>[]>(media_bytes / kPageBytes + 1)) {}

  // Of each 4 KiB of the media; see note_hit().
  const std::atomic<uint8_t>* marks() const { return marks_.get(); }
  static constexpr uint8_t kHit = 1;
  // A read has hit this extent, of which the first byte is at this place, and its mark is not kHit.
  // Any thread.
  [[gnu::cold, gnu::noinline]] void hit(MediaOff at, uint64_t off, uint64_t len_bytes) {
    std::atomic<uint8_t>& mark = marks_[at.v / kPageBytes];
    uint8_t now = mark.load(std::memory_order_relaxed);
    if (now > kSample)
      now--;
    else
      now = policy_->told_of_hit(off / kPageBytes, pages_of({off, len_bytes})) == Mark::kHit
                ? kHit
                : kSample + kTellOneIn - 1;
    mark.store(now, std::memory_order_relaxed);
  }
  // Any thread.
  [[gnu::always_inline]] void wrote(uint64_t off, uint64_t len_bytes) {
    const uint64_t page = off / kPageBytes;
    if (sample_place(page) <= sample_limit_ || off % kPageBytes + len_bytes > kPageBytes)
        [[unlikely]]
      tell_of_write(off, len_bytes);
  }
  // A read has missed it: whether it is to be cached. Any thread.
  bool admits(const Extent& extent) {
    return policy_->admits(extent.off / kPageBytes, pages_of(extent),
                           !gives_up_.load(std::memory_order_relaxed));
  }
  // From now on something is given up for what comes. Any thread.
  void gives_up() { gives_up_.store(true, std::memory_order_relaxed); }
  // The mark of what is at these places. They will hold something else: they have none then. The
  // thread of the log's tail.
  Mark take_mark(MediaOff at, uint32_t len_bytes) {
    bool any = false;
    for (uint64_t page = at.v / kPageBytes; page <= (at.v + len_bytes - 1) / kPageBytes; page++) {
      if (marks_[page].load(std::memory_order_relaxed) == 0) continue;
      marks_[page].store(0, std::memory_order_relaxed);
      any = true;
    }
    return any ? Mark::kHit : Mark::kNotHit;
  }
  // Whether what is at the log's tail, and clean, stays. The thread of the log's tail.
  bool stays(Mark mark, uint64_t len_bytes) {
    return policy_->stays(mark, (len_bytes + kPageBytes - 1) / kPageBytes);
  }

  PolicyKind kind() const { return kind_; }
  Rule rule() const { return policy_->rule(); }
  uint64_t changes() const { return policy_->changes(); }

 private:
  static constexpr uint8_t kSample = 2, kTellOneIn = 32;

  static uint64_t pages_of(const Extent& extent) {
    return (extent.end() - 1) / kPageBytes - extent.off / kPageBytes + 1;
  }
  [[gnu::cold, gnu::noinline]] void tell_of_write(uint64_t off, uint64_t len_bytes) {
    policy_->wrote(off / kPageBytes, pages_of({off, len_bytes}));
  }

  const PolicyKind kind_;
  const std::unique_ptr<EvictionPolicy> policy_;
  const uint64_t sample_limit_;  // of the policy
  const std::unique_ptr<std::atomic<uint8_t>[]> marks_;
  std::atomic<bool> gives_up_{false};
};

// A read has hit this extent, of which the first byte is at this place. Any thread. `marks` are the
// retention's; nullptr: there is none.
[[gnu::always_inline]] inline void note_hit(Retention* retention, const std::atomic<uint8_t>* marks,
                                            MediaOff at, uint64_t off, uint64_t len_bytes) {
  if (marks != nullptr &&
      marks[at.v / kPageBytes].load(std::memory_order_relaxed) != Retention::kHit) [[unlikely]]
    retention->hit(at, off, len_bytes);
}

}  // namespace pcache::policy
