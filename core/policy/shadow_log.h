// SPDX-License-Identifier: GPL-2.0-or-later
// ShadowLog: which pages a log of a given capacity would hold under one rule. It has the pages'
// hashes, no data. Of all pages it is shown a sample, and is as much smaller than the cache: so it
// misses about the same share of accesses (SHARDS, Waldspurger et al., FAST 2015).
//
// The pages are in a ring. A page that stays when it comes to the tail need not be copied: the tail
// passes it, and with that it is the newest (CLOCK).
//
// Pages are told apart by 32 bits of their hash. About 16 to 32 bytes for each page of the
// capacity. One thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "policy/admission.h"
#include "policy/keeper.h"

namespace pcache::policy {

class ShadowLog {
 public:
  // Throws std::bad_alloc.
  ShadowLog(Rule rule, uint64_t capacity_pages);

  // A read or a write of the page; `hash` is page_hash(page). True: the log has it. If not, it is
  // appended when the rule admits it, it is written, or there is room: here, and in the cache
  // (`has_room`), which may be full of what this log was never shown.
  bool access(uint64_t page, uint64_t hash, bool write, bool has_room);

  uint64_t pages() const { return ring_.size(); }

 private:
  struct Page {
    uint32_t tag;
    bool hit;      // by a read, since it was appended
    bool written;  // again: a later place in a real log has it, so it stays here at no cost
  };

  void append(uint32_t tag);
  void make_room();  // at tail_

  // From a tag to the page's place in the ring: open addressing, linear probing.
  uint64_t home(uint32_t tag) const;
  uint64_t find(uint32_t tag) const;  // the slot that has it, or the free one where it belongs
  void erase(uint32_t tag);
  uint64_t after(uint64_t slot) const { return slot + 1 == slots_.size() ? 0 : slot + 1; }

  static constexpr uint32_t kFree = UINT32_MAX;

  const Rule rule_;
  const uint64_t capacity_pages_;
  Admission admission_;
  Keeper keeper_;
  std::vector<Page> ring_;
  uint64_t tail_ = 0;
  std::vector<uint32_t> slots_;
};

}  // namespace pcache::policy
