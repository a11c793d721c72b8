// SPDX-License-Identifier: GPL-2.0-or-later
// Stripes: the 4 MiB ranges of the backing device, dealt out over a power of two of locks. A
// stripe's lock covers the index of its ranges, its open kset and its fills in flight.
//
// Invariants
// - A key enters the open kset in the same critical section that enters its extent into the index,
//   so index order, kset order and log order agree for overlapping extents.
// - The data of a key in an open kset is durable (its writer has fenced it) before the key is
//   added.
// - A range always belongs to the same stripe, so its keys reach the log in order.
// - No lock is held while user data is copied.
// Locks: a stripe's lock comes before the log's; two stripe locks are never held together.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "index/index.h"
#include "keylog/key_log.h"

namespace pcache {

struct Fill;

// Finds the fills in flight of one stripe by their tokens, and makes tokens that are never used
// twice.
class FillTable {
 public:
  FillToken add(Fill* fill);
  Fill* find(FillToken token) const;  // nullptr: it has ended
  void remove(FillToken token);

 private:
  static constexpr unsigned kIndexBits = 20;
  struct Entry {
    Fill* fill = nullptr;
    uint64_t token = 0;
  };
  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
  uint64_t serial_ = 0;
};

struct alignas(128) Stripe {
  Mutex mu;
  KsetBuffer* kset GUARDED_BY(mu) = nullptr;
  // Keys in the open kset; written under mu, read without it to pass empty stripes by.
  std::atomic<uint32_t> open_keys{0};
  bool seen_by_closer GUARDED_BY(mu) = false;  // the open kset has stood through one tick
  FillTable fills GUARDED_BY(mu);
};

class Stripes {
 public:
  Stripes(uint32_t count, KeyLog& log);

  uint32_t count() const { return mask_ + 1; }
  Stripe& of(uint64_t logical_off) { return stripes_[range_of(logical_off) & mask_]; }

  // Makes sure that the next append() needs no memory.
  void prepare(Stripe& stripe) REQUIRES(stripe.mu);
  // Adds a key to the stripe's open kset. Returns 0, or the ticket of the kset that this filled,
  // which the caller commits after it has dropped the lock.
  KeyLog::Ticket append(Stripe& stripe, const media::Key& key) REQUIRES(stripe.mu);

  // Closes every open kset and makes all that was appended before durable.
  Status close_all();
  // The same for a barrier of the user's: what was appended before belongs to an earlier epoch than
  // what is appended after.
  Status flush();
  // One tick of the closer: a kset that was open at the tick before is closed.
  Status close_old();
  uint64_t open_keys() const;

 private:
  KeyLog::Ticket seal(Stripe& stripe) REQUIRES(stripe.mu);

  const uint32_t mask_;
  std::unique_ptr<Stripe[]> stripes_;
  KeyLog& log_;
};

}  // namespace pcache
