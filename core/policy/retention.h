// SPDX-License-Identifier: GPL-2.0-or-later
// Retention: the eviction policy of a cache, and the marks of what it holds: a byte for each 4 KiB
// of the cache device. As long as it was kFifo alone, which asks for none, there are no marks.
//
// A mark is 0 (not hit), 1 (hit), kAhead (not hit, and nobody has asked for it yet: it was read
// ahead), or another: hit, and of the policy's sample. Of hits of the latter
// the policy is told the first since the data was stored here, and one in kTellOneIn: what is hit
// often is hit under every rule. The marks of a segment are 0 when it is taken for new data.
//
// A page is 4 KiB of the backing device. An extent is hit if any of its places is: what was stored
// together comes and goes together. Extents that lie in the same 4 KiB of the cache device share a
// mark, so one that was not hit may stay beside one that was.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/ids.h"
#include "base/mutex.h"
#include "base/reservation.h"
#include "format/media.h"
#include "policy/eviction_policy.h"

namespace pcache::policy {

// What kAdaptive goes by is made for what gc_percent says then, but for no less: where nearly
// nothing is kept every page would be of its sample, and gc_percent may be raised.
inline constexpr uint32_t kLeastCapacityPercent = 10;

class Retention {
 public:
  // `capacity_bytes`: of the data that the cache keeps, about. The media may grow to
  // `most_media_bytes`, if that is more. Throws std::bad_alloc.
  Retention(PolicyKind kind, uint64_t media_bytes, uint64_t capacity_bytes,
            uint64_t most_media_bytes = 0);

  // nullptr: there are none. They stay where they are.
  const std::atomic<uint8_t>* marks() const { return marks_.load(std::memory_order_acquire); }
  // For media of so many bytes from now on. EFBIG, ENOMEM. Any thread.
  Status make_room(uint64_t media_bytes);
  // The cache keeps so much from now on. What the policy has made goes on with the size that it was
  // made for. Any thread.
  void set_capacity(uint64_t capacity_bytes) {
    if (capacity_bytes > capacity_bytes_.exchange(capacity_bytes, std::memory_order_relaxed))
      grew();
  }
  // Follows another policy from now on. ENOMEM: it follows the one it did. Any thread.
  Status set_kind(PolicyKind kind);

  static constexpr uint8_t kHit = 1;
  // A read has hit the page at this offset, of which a byte is at this place, and the place's mark
  // is not kHit. Any thread.
  [[gnu::cold, gnu::noinline]] void hit(MediaOff at, uint64_t off) {
    std::atomic<uint8_t>& mark = own_marks()[at.v / kPageBytes];
    uint8_t now = mark.load(std::memory_order_relaxed);
    if (now == kAhead) {  // its first read, as if it had been missed
      (void)policy_->told_of_hit(off / kPageBytes, has_room());
      now = 0;
    } else if (now > kSample) {
      now--;
    } else {
      const bool is_told_no_more = policy_->told_of_hit(off / kPageBytes, has_room()) == Mark::kHit;
      now = is_told_no_more ? kHit : kSample + kTellOneIn - 1;
    }
    mark.store(now, std::memory_order_relaxed);
  }
  // The same of an extent that begins with these two, in this 4 KiB of the media.
  [[gnu::cold, gnu::noinline]] void hit_of_extent(MediaOff at, uint64_t off, uint64_t media_page) {
    const uint64_t in_extent = media_page * kPageBytes - std::min(media_page * kPageBytes, at.v);
    hit(at + in_extent, off + in_extent);
  }
  // Any thread.
  [[gnu::always_inline]] void wrote(uint64_t off, uint64_t len_bytes) {
    const uint64_t limit = sample_limit_.load(std::memory_order_relaxed);
    if (limit != 0 && (sample_place(off / kPageBytes) <= limit ||
                       off % kPageBytes + len_bytes > kPageBytes)) [[unlikely]]
      tell_of_write(off, len_bytes);
  }
  // A read has missed it: whether it is to be cached. Any thread.
  bool admits(const Extent& extent) {
    return policy_->admits(extent.off / kPageBytes, pages_of(extent), has_room());
  }
  // Whether every miss is to be cached, as admits() has it. Any thread.
  bool keeps_all() const { return rule() != Rule::kReuse || has_room(); }
  // The log's tail has passed so many bytes, with what is superseded, and given so many of them up
  // that were cached. Where that is none for a whole capacity, there is room. The thread of the
  // log's tail.
  void passed(uint64_t bytes, uint64_t given_up_bytes) {
    uint64_t since = passed_since_bytes_.load(std::memory_order_relaxed);
    // Fails where grew() has come between: there is room then, whatever was given up before.
    passed_since_bytes_.compare_exchange_strong(
        since, given_up_bytes > 0 ? 0 : since + std::min(bytes, UINT64_MAX - since),
        std::memory_order_relaxed);
  }
  // There is room: the cache is to keep more than it did. Any thread.
  void grew() { passed_since_bytes_.store(capacity_bytes(), std::memory_order_relaxed); }
  // The mark of what is at these places. Any thread.
  Mark mark(MediaOff at, uint32_t len_bytes) const {
    const std::atomic<uint8_t>* const marks = this->marks();
    if (marks == nullptr) return Mark::kNotHit;
    for (uint64_t page = at.v / kPageBytes; page <= (at.v + len_bytes - 1) / kPageBytes; page++)
      if (const uint8_t mark = marks[page].load(std::memory_order_relaxed);
          mark != 0 && mark != kAhead)
        return Mark::kHit;
    return Mark::kNotHit;
  }
  // What is at these places was read ahead, and nobody sees it yet. Any thread.
  void came_ahead(MediaOff at, uint32_t len_bytes) {
    std::atomic<uint8_t>* const marks = own_marks();
    if (marks == nullptr) return;
    for (uint64_t page = at.v / kPageBytes; page <= (at.v + len_bytes - 1) / kPageBytes; page++)
      if (marks[page].load(std::memory_order_relaxed) == 0)
        marks[page].store(kAhead, std::memory_order_relaxed);
  }
  // These places will hold something else. Any thread.
  void forget_marks(MediaOff at, uint64_t len_bytes) {
    std::atomic<uint8_t>* const marks = own_marks();
    if (marks == nullptr) return;
    for (uint64_t page = at.v / kPageBytes; page <= (at.v + len_bytes - 1) / kPageBytes; page++)
      marks[page].store(0, std::memory_order_relaxed);
  }
  // Whether what is at the log's tail, and clean, stays; see Keeper. The thread of the log's tail.
  bool stays(Mark mark, uint64_t len_bytes, bool in_a_hurry) {
    return policy_->stays(mark, (len_bytes + kPageBytes - 1) / kPageBytes, in_a_hurry);
  }

  // Of writes of whole pages; 0: the policy need not be told of any.
  uint64_t sample_limit() const { return sample_limit_.load(std::memory_order_relaxed); }
  PolicyKind kind() const { return policy_->kind(); }
  Rule rule() const { return policy_->rule(); }
  uint64_t changes() const { return policy_->changes(); }

 private:
  static constexpr uint8_t kSample = 2, kTellOneIn = 32, kAhead = 255;

  static constexpr uint64_t marks_of(uint64_t media_bytes) { return media_bytes / kPageBytes + 1; }
  std::atomic<uint8_t>* own_marks() const { return marks_.load(std::memory_order_acquire); }
  void have_marks() REQUIRES(mu_);  // throws std::bad_alloc
  void tell_of_hits_anew() REQUIRES(mu_);
  uint64_t capacity_bytes() const { return capacity_bytes_.load(std::memory_order_relaxed); }
  bool has_room() const {
    return passed_since_bytes_.load(std::memory_order_relaxed) >= capacity_bytes();
  }
  static uint64_t pages_of(const Extent& extent) {
    return (extent.end() - 1) / kPageBytes - extent.off / kPageBytes + 1;
  }
  [[gnu::cold, gnu::noinline]] void tell_of_write(uint64_t off, uint64_t len_bytes) {
    policy_->wrote(off / kPageBytes, pages_of({off, len_bytes}));
  }

  std::atomic<std::atomic<uint8_t>*> marks_{nullptr};  // in memory_
  std::atomic<uint64_t> sample_limit_{0};              // of the policy
  const std::unique_ptr<EvictionPolicy> policy_;
  const uint64_t most_media_bytes_;
  // Not in the line of what each hit reads.
  alignas(64) std::atomic<uint64_t> capacity_bytes_;
  std::atomic<uint64_t> passed_since_bytes_;  // something was given up
  Mutex mu_;
  Reservation memory_ GUARDED_BY(mu_);
  uint64_t media_bytes_ GUARDED_BY(mu_);
};

// A read has hit the page at this offset, or a part of it, of which a byte is at this place. Any
// thread.
[[gnu::always_inline]] inline void note_page_hit(Retention& retention, MediaOff at, uint64_t off) {
  const std::atomic<uint8_t>* const marks = retention.marks();
  if (marks != nullptr &&
      marks[at.v / kPageBytes].load(std::memory_order_relaxed) != Retention::kHit) [[unlikely]]
    retention.hit(at, off);
}

// The same of all pages of an extent, which may have come into the cache one by one: each has a
// mark of its own.
[[gnu::always_inline]] inline void note_hit(Retention& retention, MediaOff at, uint64_t off,
                                            uint64_t len_bytes) {
  const std::atomic<uint8_t>* const marks = retention.marks();
  if (marks == nullptr) return;
  const uint64_t last = (at.v + len_bytes - 1) / kPageBytes;
  for (uint64_t page = at.v / kPageBytes; page <= last; page++)
    if (marks[page].load(std::memory_order_relaxed) != Retention::kHit) [[unlikely]]
      retention.hit_of_extent(at, off, page);
}

}  // namespace pcache::policy
