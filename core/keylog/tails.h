// SPDX-License-Identifier: GPL-2.0-or-later
// Tails: the two persistent positions of the log. key_tail <= dirty_tail <= head in log order.
//   key_tail    first kset not yet reclaimed; replay starts here
//   dirty_tail  first kset that writeback has not passed
// All four records are in one page. Once a store to it was lost neither tail moves on media any
// more: if only one could move, key_tail might pass dirty_tail. One thread at a time moves each of
// the two; any thread reads them.
#pragma once

#include <atomic>

#include "base/result.h"
#include "format/layout.h"

namespace pcache {

class Tails {
 public:
  // EUCLEAN: neither replica of a tail is valid, so it is not known where the log begins.
  Status load(const Pmem& pmem, const Bounds& bounds);

  CachePos key_tail() const { return unpack(key_pos_.load(std::memory_order_acquire)); }
  CachePos dirty_tail() const { return unpack(dirty_pos_.load(std::memory_order_acquire)); }

  // A replica of dirty_tail is torn, and the valid one is in front of key_tail: it must be the
  // older one. (Within a segment only, as only the log tells the order of segments.)
  bool dirty_tail_is_old() const {
    return dirty_torn_ && dirty_tail().seg == key_tail().seg && dirty_tail() < key_tail();
  }
  // Sets dirty_tail to key_tail, in DRAM alone: then all of the log counts as dirty. Only while one
  // thread uses the tails.
  void take_all_as_dirty() {
    PCACHE_CHECK(dirty_tail_is_old());
    dirty_pos_.store(key_pos_.load());
  }

  // Of a cache whose dirty_tail another process moves: where it is on media now. EUCLEAN: as
  // load(). Not while another thread moves it here.
  Result<CachePos> read_dirty_tail(const Pmem& pmem, const Bounds& bounds);
  // It has been seen there.
  void follow_dirty_tail(CachePos pos) { dirty_pos_.store(pack(pos), std::memory_order_release); }

  // Durable on return. The caller keeps the rule disk-before-tail of FORMAT.md: it has flushed the
  // backing device, and key_tail does not pass dirty_tail. EIO: their page is bad. Then key_tail
  // stays. dirty_tail moves in DRAM alone: the next attach passes the same once more.
  Status set_key_tail(Pmem& pmem, CachePos pos);
  Status set_dirty_tail(Pmem& pmem, CachePos pos);
  bool failed() const { return failed_.load(std::memory_order_relaxed); }

 private:
  Status set_one(Pmem& pmem, Replicated<media::TailPos>& record, CachePos pos,
                 const CodeSite& site = CodeSite::current());
  static uint64_t pack(CachePos pos) { return uint64_t{pos.seg.v} << 32 | pos.off; }
  static CachePos unpack(uint64_t word) {
    return {SegId{static_cast<uint32_t>(word >> 32)}, static_cast<uint32_t>(word)};
  }

  Replicated<media::TailPos> key_, dirty_;
  std::atomic<uint64_t> key_pos_{0}, dirty_pos_{0};
  std::atomic<bool> failed_{false};
  bool dirty_torn_ = false;
};

}  // namespace pcache
