// SPDX-License-Identifier: GPL-2.0-or-later
// Stripes: the 4 MiB ranges of the backing device belong to a power of two of stripes
// (stripe_number()). A stripe's lock covers the index of its ranges, its open kset and its fills in
// flight.
//
// Invariants
// - A key enters the open kset in the same critical section that enters its extent into the index,
//   so index order, kset order and log order agree for overlapping extents.
// - The data of a key in an open kset is stored before the key is added. Its writer has fenced it,
//   or the kset notes that it has not (leave_unfenced(), see KeyLog).
// - A range always belongs to the same stripe, so its keys reach the log in order.
// - No lock is held while user data is copied.
// - A stripe's lock becomes biased to a thread that has the stripe to itself (BiasedMutex). A
//   reader without the lock calls settle() on it before it follows what it found in the index.
// Locks: a stripe's lock comes before the log's; two stripe locks are never held together.
#pragma once

#include <atomic>
#include <bitset>
#include <memory>
#include <span>
#include <vector>

#include "base/biased_mutex.h"
#include "index/index.h"
#include "keylog/key_log.h"

namespace pcache {

struct Fill;

// Finds the fills in flight of one stripe by their tokens, and makes the tokens: no two of 2^40 in
// a row are the same. Has room for kMost.
class FillTable {
 public:
  static constexpr unsigned kIndexBits = 20, kSerialBits = 40;  // an index slot has room for 60
  static constexpr uint32_t kMost = (1u << kIndexBits) - 1;

  // Tests give other values.
  explicit FillTable(uint64_t serial = 0, uint32_t most = kMost) : serial_(serial), most_(most) {}
  // {}: no room, or no memory, for one more; then no other read can join the fill.
  FillToken add(Fill* fill) noexcept;
  Fill* find(FillToken token) const;  // nullptr: it has ended
  void remove(FillToken token) noexcept;
  uint32_t size() const { return used_; }

 private:
  static constexpr uint32_t kIndexMask = (1u << kIndexBits) - 1, kNone = kIndexMask;
  struct Entry {
    Fill* fill = nullptr;
    uint64_t token = 0;  // if free, the next free one's number (no token: its serial is 0)
  };
  std::vector<Entry> entries_;
  uint64_t serial_;
  uint32_t most_;
  uint32_t used_ = 0;
  uint32_t free_ = kNone;
};

struct alignas(128) Stripe {
  // All that a write changes in it is in one cache line.
  BiasedMutex mu{LockRank::kPath};
  KsetBuffer* kset GUARDED_BY(mu) = nullptr;
  ThreadSerial unfenced_by GUARDED_BY(mu) = KsetBuffer::kNobody;  // see KsetBuffer
  // Keys in the open kset, and the number of that kset; written under mu, read without it.
  std::atomic<uint32_t> open_keys{0};
  std::atomic<uint32_t> kset_number{0};

  alignas(64) FillTable fills GUARDED_BY(mu);
  std::atomic<uint32_t> seen_by_closer{0};  // the kset that was open at the closer's last tick
};
static_assert(offsetof(Stripe, fills) == 64);

// A stripe's lock, taken as `Lock` does, with the right to change the index of its ranges.
template <typename Lock>
class SCOPED_CAPABILITY StripeHold {
 public:
  template <typename... Before>
  explicit StripeHold(Stripe& stripe, Before... before)
      ACQUIRE(stripe.mu, index_turn) NO_THREAD_SAFETY_ANALYSIS : lock_(stripe.mu, before...) {}
  ~StripeHold() RELEASE() NO_THREAD_SAFETY_ANALYSIS = default;
  StripeHold(const StripeHold&) = delete;
  StripeHold& operator=(const StripeHold&) = delete;
  ThreadSerial by_bias() const { return lock_.by_bias(); }

 private:
  Lock lock_;
};
using StripeLock = StripeHold<BiasedLock>;
using BorrowedStripeLock = StripeHold<BorrowedLock>;

class Stripes {
 public:
  static constexpr uint32_t kMost = 128;
  static constexpr size_t kMostInOneGo = 128;  // takes some microseconds, which a request may wait
  Stripes(uint32_t count, KeyLog& log);

  uint32_t count() const { return mask_ + 1; }
  // Of the range that `logical_off` is in; less than count().
  uint32_t number(uint64_t logical_off) const {
    return stripe_number(range_of(logical_off)) & mask_;
  }
  Stripe& at(uint32_t number) { return stripes_[number]; }
  Stripe& of(uint64_t logical_off) { return at(number(logical_off)); }
  // For a caller that changes many: the items from `at` on that have the stripe of the first, as
  // far as they may be changed under its lock in one go. To revoke a bias costs the biased thread
  // far more than the change does: each of its next writes has a fence.
  template <typename Item, typename Off>
  std::span<const Item> run_from(std::span<const Item> items, size_t at, Off off) {
    const Stripe* const stripe = &of(off(items[at]));
    size_t n = 1;
    while (n < kMostInOneGo && at + n < items.size() && &of(off(items[at + n])) == stripe) n++;
    return items.subspan(at, n);
  }

  // The numbers of `items`, grouped by stripe and otherwise in order, which makes longer runs.
  template <typename Item, typename Off>
  std::vector<uint32_t> by_stripe(std::span<const Item> items, Off off);
  // The items themselves in that order.
  template <typename Item, typename Off>
  std::vector<Item> grouped(std::span<const Item> items, Off off);

  // Gets what the next append() needs. False: no memory, nothing is changed.
  [[nodiscard]] bool prepare(Stripe& stripe) REQUIRES(stripe.mu) {
    return stripe.kset != nullptr || open(stripe);
  }
  // How many keys can be appended after a prepare() that was true.
  static uint32_t room(const Stripe& stripe) REQUIRES(stripe.mu) {
    return media::kKeysPerKset - stripe.open_keys.load(std::memory_order_relaxed);
  }
  // This thread, `me`, has not fenced the data of the key that it appends next. After prepare().
  void leave_unfenced(Stripe& stripe, ThreadSerial me) REQUIRES(stripe.mu) {
    const ThreadSerial by = stripe.unfenced_by;
    if (by != me) [[unlikely]]
      stripe.unfenced_by = by == KsetBuffer::kNobody ? me : KsetBuffer::kSeveral;
  }
  // Adds a key to the stripe's open kset, after prepare(). Returns 0, or the ticket of the kset
  // that this filled, which the caller commits after it has dropped the lock.
  KeyLog::Ticket append(Stripe& stripe, const media::Key& key) REQUIRES(stripe.mu) {
    return append_made(stripe, [&key] { return key; });
  }
  // The same with the key that `make` returns, which is made in its place.
  template <typename Make>
  [[gnu::always_inline]] KeyLog::Ticket append_made(Stripe& stripe, Make make) REQUIRES(stripe.mu);

  // Seals every open kset, and makes durable all that was appended before.
  Status close_all();
  // The same in the background: it borrows the stripes' locks.
  Status close_open();
  // Likewise for some stripes.
  using Set = std::bitset<kMost>;
  Status close(const Set& numbers);
  // The same for a barrier of the user: it ends the epoch of what was appended before.
  Status flush();
  // One tick of the closer, in one thread: seals ksets that were open at the tick before.
  Status close_old();
  // For a caller that found no memory in prepare(): seals and commits all open ksets, so that their
  // buffers are free for the next caller. Fails as close_all() does.
  Status free_buffers();
  uint64_t open_keys() const;

 private:
  [[gnu::noinline]] bool open(Stripe& stripe) REQUIRES(stripe.mu);
  // Notes whether the stripe has an open kset with keys; under its lock.
  void mark_open(const Stripe& stripe, bool open) {
    __atomic_store_n(&open_map_[&stripe - stripes_.get()], open, __ATOMIC_RELEASE);
  }
  KeyLog::Ticket seal(Stripe& stripe) REQUIRES(stripe.mu);
  // Calls `visit` with each stripe that has keys in its open kset.
  template <typename Visit>
  void each_open(Visit visit);

  const uint32_t mask_;
  std::unique_ptr<Stripe[]> stripes_;
  // A byte for each stripe; 1: it has an open kset with keys. Stored under its lock, once for each
  // kset. A flush reads eight at a time here, and not all stripes. Bytes, since to set a bit of a
  // word that others change takes a locked instruction.
  alignas(64) uint8_t open_map_[kMost] = {};
  KeyLog& log_;
};

template <typename Item, typename Off>
std::vector<uint32_t> Stripes::by_stripe(std::span<const Item> items, Off off) {
  const auto number = [&](const Item& item) { return &of(off(item)) - stripes_.get(); };
  uint32_t next[kMost + 1] = {};
  for (const Item& item : items) next[number(item) + 1]++;
  for (uint32_t i = 0; i < kMost; i++) next[i + 1] += next[i];
  std::vector<uint32_t> order(items.size());
  for (uint32_t i = 0; i < items.size(); i++) order[next[number(items[i])]++] = i;
  return order;
}

template <typename Item, typename Off>
std::vector<Item> Stripes::grouped(std::span<const Item> items, Off off) {
  std::vector<Item> result;
  result.reserve(items.size());
  for (const uint32_t number : by_stripe(items, off)) result.push_back(items[number]);
  return result;
}

template <typename Make>
inline KeyLog::Ticket Stripes::append_made(Stripe& stripe, Make make) {
  PCACHE_DCHECK(stripe.kset != nullptr);
  const uint32_t before = stripe.open_keys.load(std::memory_order_relaxed), n = before + 1;
  ::new (&stripe.kset->keys[before]) media::Key(make());
  stripe.open_keys.store(n, std::memory_order_release);
  if (n % media::kKeysPerKset > 1) [[likely]]  // not the first, and not the last
    return 0;
  if (n == 1) mark_open(stripe, true);
  return n == media::kKeysPerKset ? seal(stripe) : 0;
}

}  // namespace pcache
