// SPDX-License-Identifier: GPL-2.0-or-later
// Retention: the eviction policy of a cache, and the marks of what it holds: a byte for each 4 KiB
// of its segments.
//
// A page is 4 KiB of the backing device. An extent is hit if any of its places is: what was stored
// together comes and goes together.
#pragma once

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
  Retention(PolicyKind kind, uint32_t segments, uint64_t capacity_bytes)
      : kind_(kind),
        policy_(EvictionPolicy::make(kind, std::max<uint64_t>(capacity_bytes / kPageBytes, 1))),
        marks_(std::make_unique<std::atomic<Mark>[]>(segments * kMarksOfASegment)) {}

  // A read has hit this extent, of which the first byte is at this place. Any thread.
  [[gnu::always_inline]] void hit(CachePos pos, const Extent& extent) {
    std::atomic<Mark>& mark = mark_of(pos);
    if (mark.load(std::memory_order_relaxed) != Mark::kHit) [[unlikely]]
      mark.store(policy_->told_of_hit(extent.off / kPageBytes, pages_of(extent)),
                 std::memory_order_relaxed);
  }
  // Any thread.
  void wrote(const Extent& extent) { policy_->wrote(extent.off / kPageBytes, pages_of(extent)); }
  // A read has missed it: whether it is to be cached. Any thread.
  bool admits(const Extent& extent) {
    return policy_->admits(extent.off / kPageBytes, pages_of(extent),
                           !gives_up_.load(std::memory_order_relaxed));
  }
  // From now on something is given up for what comes. Any thread.
  void gives_up() { gives_up_.store(true, std::memory_order_relaxed); }
  // The mark of what is at these places. They will hold something else: they have none then. The
  // thread of the log's tail.
  Mark take_mark(CachePos pos, uint32_t len_bytes) {
    Mark mark = Mark::kNotHit;
    const std::atomic<Mark>* const last = &mark_of(pos + (len_bytes - 1));
    for (std::atomic<Mark>* at = &mark_of(pos); at <= last; at++) {
      if (at->load(std::memory_order_relaxed) == Mark::kNotHit) continue;
      mark = at->exchange(Mark::kNotHit, std::memory_order_relaxed);
    }
    return mark;
  }
  // Whether what is at the log's tail, and clean, stays. The thread of the log's tail.
  bool stays(Mark mark, uint64_t len_bytes) {
    return policy_->stays(mark, (len_bytes + kPageBytes - 1) / kPageBytes);
  }

  PolicyKind kind() const { return kind_; }
  Rule rule() const { return policy_->rule(); }
  uint64_t changes() const { return policy_->changes(); }

 private:
  static constexpr uint64_t kMarksOfASegment = media::kSegmentBytes / kPageBytes;

  static uint64_t pages_of(const Extent& extent) {
    return (extent.end() - 1) / kPageBytes - extent.off / kPageBytes + 1;
  }
  std::atomic<Mark>& mark_of(CachePos pos) {
    return marks_[pos.seg.v * kMarksOfASegment + pos.off / kPageBytes];
  }

  const PolicyKind kind_;
  const std::unique_ptr<EvictionPolicy> policy_;
  const std::unique_ptr<std::atomic<Mark>[]> marks_;
  std::atomic<bool> gives_up_{false};
};

}  // namespace pcache::policy
