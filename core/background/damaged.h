// SPDX-License-Identifier: GPL-2.0-or-later
// DamagedData: dirty data that fails its crc or cannot be read, and so cannot be written back.
//
// It exists nowhere else, so it must stay an error to read until it is overwritten, also after an
// attach. But dirty_tail must pass its key, or nothing behind it would ever be written. So the key
// is appended to the log again, dirty, for what of it is still in the index. One thread
// (Writeback's lock).
#pragma once

#include <map>
#include <set>
#include <tuple>

#include "parts/parts.h"

namespace pcache {

class DamagedData {
 public:
  explicit DamagedData(const Parts& parts) : parts_(parts) {}

  enum class State {
    kNotKnown,     // or to be tried again
    kDamaged,      // and still in the index: to be kept
    kOverwritten,  // nothing of it counts any more
  };
  State state(const media::Key& key);
  bool any() const { return !known_.empty(); }  // that state() would say something of

  // Appends what of the key is still in the index; nothing that it has appended since the last
  // passed(). Counts in `found` the extents that were not known to be damaged before. May throw
  // std::bad_alloc half-way; to be called again then.
  void keep(const media::Key& key, uint64_t* found);
  // What was appended is in the log, and dirty_tail has moved past what it was appended for.
  void passed() { kept_.clear(); }
  // Something was appended since.
  bool keeps() const { return !kept_.empty(); }
  // Known, and not overwritten.
  uint64_t count();

 private:
  using Id = std::tuple<uint32_t, uint32_t, uint64_t>;  // segment, offset, generation
  static Id id_of(const media::Key& key) {
    return {key.cache_seg_id, key.cache_seg_off, key.seg_gen};
  }
  // Of one key of the log. With data_crc a later key may name the same place with another crc, and
  // be sound.
  struct Named {
    Extent extent;
    CachePos pos;
    uint64_t gen;
    uint32_t crc;
  };
  bool in_index(const Named& named) const;
  // The first part of it that is still mapped, dirty, to its place; also one that keep() has given
  // another crc.
  std::optional<Piece> find(const Named& named) const;
  // Returns the crc that the log and the index then have for it.
  uint32_t append(Stripe& stripe, const media::Key& key, const Piece& piece)
      REQUIRES(stripe.mu, index_turn);

  struct Known {
    Named named;
    bool unproven;  // a part of what could not be read: may be readable, and is tried by itself
  };

  const Parts& parts_;
  std::map<Id, Known> known_;
  std::set<Id> kept_;
};

}  // namespace pcache
