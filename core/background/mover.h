// SPDX-License-Identifier: GPL-2.0-or-later
// Mover: copies cached data from the end of the log that is freed next to the log's head, under new
// keys. So data stays in the cache, and dirty data need not be written to the backing device, while
// the place that it had comes free.
//
// What move() does, and what a crash after each line leaves:
//   1. the data is stored at a new place             the old key counts; the new place is free
//   2. fence                                         the same
//   3. index and open kset name the new place        the same, until the kset is committed; then
//   both
//                                                    keys name the same data, and the later one
//                                                    counts
//
// Invariants
// - Only what the index still maps to the old place gets a new key, under the stripe's lock: a key
//   that a write has appended meanwhile stays the later one (hazard moved-over-newer).
// - The old place stays as it is: its segment is freed only when its key has left the log, which
//   waits until the new key is committed (Superseded::make_durable()).
// - A clean extent stays clean, a dirty one dirty (hazard moved-is-clean).
// One thread at a time.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/counter.h"
#include "parts/stored_extent.h"

namespace pcache {

class Mover {
 public:
  // `stored` is called when the data is stored and no key names it yet; tests only.
  explicit Mover(const Parts& parts, std::function<void()> stored = nullptr);

  // Moves what the index still maps to the places of these keys, all of one stripe and live. True:
  // nothing is mapped there any more. False: something is, since no place or no memory was free,
  // the data is damaged, a write has cut it meanwhile, or, with data_crc, it is longer than what is
  // copied at once: such keys are the kernel target's.
  bool move(std::span<const media::Key> keys);

#define PCACHE_MOVER_COUNTERS(X)                    \
  X(moved_keys, "moved_keys", "appended for moves") \
  X(moved_bytes, "moved_bytes", "copied to a new place")
  struct Counters {
    PCACHE_MOVER_COUNTERS(PCACHE_COUNTER_MEMBER)
  };
  const Counters& counters() const { return counters_; }

 private:
  struct Move {
    Piece from;
    StoredExtent to;
  };
  // So many are stored, and entered under one turn of the stripe's lock.
  static constexpr size_t kMostMoves = media::kKeysPerKset;
  bool move_key(const media::Key& key);
  bool store(const Piece& piece);
  // What has to be read to know that the piece is sound, into the buffer.
  bool load(const Piece& piece);
  bool copy(const Piece& piece, const Place& to, uint32_t* crc);
  bool enter_all();
  bool enter(const Move& move, Stripe& stripe, KeyLog::Ticket* ticket)
      REQUIRES(stripe.mu, index_turn);
  bool is_mapped(const Piece& piece) const;

  const Parts& parts_;
  const std::function<void()> stored_;
  DataHead head_;
  std::unique_ptr<std::byte[]> buffer_;
  std::vector<Move> moves_;
  Counters counters_;
};

inline constexpr auto kMoverCounters = PCACHE_COUNTER_TABLE(Mover::Counters, PCACHE_MOVER_COUNTERS);

}  // namespace pcache
