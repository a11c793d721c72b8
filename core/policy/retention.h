// SPDX-License-Identifier: GPL-2.0-or-later
// Retention: the eviction policy of a cache, and the marks of what it holds: a byte for each 4 KiB
// of the cache device.
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
  Retention(PolicyKind kind, uint64_t media_bytes, uint64_t capacity_bytes)
      : kind_(kind),
        policy_(EvictionPolicy::make(kind, std::max<uint64_t>(capacity_bytes / kPageBytes, 1))),
        marks_(std::make_unique<std::atomic<Mark>[]>(media_bytes / kPageBytes + 1)) {}

  // Of each 4 KiB of the media. For readers, who need no more than that most of the time.
  const std::atomic<Mark>* marks() const { return marks_.get(); }
  // A read has hit this extent, of which the first byte is at this place, and its mark is not kHit.
  // Any thread.
  [[gnu::cold, gnu::noinline]] void hit(MediaOff at, uint64_t off, uint64_t len_bytes) {
    const Extent extent{off, len_bytes};
    mark_of(at).store(policy_->told_of_hit(off / kPageBytes, pages_of(extent)),
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
  Mark take_mark(MediaOff at, uint32_t len_bytes) {
    Mark mark = Mark::kNotHit;
    for (uint64_t page = at.v / kPageBytes; page <= (at.v + len_bytes - 1) / kPageBytes; page++) {
      if (marks_[page].load(std::memory_order_relaxed) == Mark::kNotHit) continue;
      mark = marks_[page].exchange(Mark::kNotHit, std::memory_order_relaxed);
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
  static uint64_t pages_of(const Extent& extent) {
    return (extent.end() - 1) / kPageBytes - extent.off / kPageBytes + 1;
  }
  std::atomic<Mark>& mark_of(MediaOff at) { return marks_[at.v / kPageBytes]; }

  const PolicyKind kind_;
  const std::unique_ptr<EvictionPolicy> policy_;
  const std::unique_ptr<std::atomic<Mark>[]> marks_;
  std::atomic<bool> gives_up_{false};
};

// A read has hit this extent, of which the first byte is at this place. Any thread. `marks` are the
// retention's; nullptr: there is none.
[[gnu::always_inline]] inline void note_hit(Retention* retention, const std::atomic<Mark>* marks,
                                            MediaOff at, uint64_t off, uint64_t len_bytes) {
  if (marks != nullptr && marks[at.v / kPageBytes].load(std::memory_order_relaxed) != Mark::kHit)
      [[unlikely]]
    retention->hit(at, off, len_bytes);
}

}  // namespace pcache::policy
