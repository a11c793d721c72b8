// SPDX-License-Identifier: GPL-2.0-or-later
// LogCursor: the one reader of the log, for replay, writeback, reclaim and the tools.
//
// Invariants
// - next() gives an item, the end of the log, or an error. The end is a header that is cleared, or
//   was torn by a crash while it was stored. A broken kset in front of valid ksets of the same life
//   is not the end but damage: those were acknowledged. (A kset is of this life if its keys name
//   data of a current generation, or if it leads on to another segment.)
// - Nothing from media is trusted: a LAST kset to a segment that is out of range or was passed
//   already is an error.
// - With `until` the cursor ends there and reads nothing behind it, so it can follow a log while
//   ksets are appended.
// - `salvage` is for tools that save what they can from a damaged log. Where next() would report
//   damage, and knows how the log goes on, it gives an item with the damage and goes on there.
//   Behind a place that cannot be read that is the next kset which seems to be of this life.
// One thread.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "format/codec.h"
#include "segment/segment_table.h"

namespace pcache {

struct LogItem {
  enum class Kind { kKeys, kLast, kEnd, kLost };  // kLost: salvage; a kset that cannot be read
  Kind kind = Kind::kEnd;
  CachePos pos;                      // of the kset's header
  CachePos next;                     // where the log goes on (kEnd: same as pos)
  std::span<const media::Key> keys;  // valid until the next call
  uint32_t crc = 0;                  // of the kset
  bool same_epoch = false;           // kKeys: as kKsetSameEpoch
  // kKeys: as kKsetPasses, if it can be believed.
  std::optional<PassStatement> passes;
  bool passes_unchecked = false;  // kKeys: has kKsetPasses, as an older version of ours sets it
  bool torn = false;              // kEnd: a header is there, and it is not valid
  // Salvage: what was wrong. A kset that comes with it had one damaged field in its header; its crc
  // has confirmed the corrected value.
  std::optional<Error> damage;
};

class LogCursor {
 public:
  struct Options {
    std::optional<CachePos> until;
    bool salvage = false;
  };
  LogCursor(const Pmem& pmem, const SegmentTable& segments, CachePos from)
      : LogCursor(pmem, segments, from, Options{}) {}
  LogCursor(const Pmem& pmem, const SegmentTable& segments, CachePos from, const Options& options);
  Result<LogItem> next();
  CachePos pos() const { return pos_; }

 private:
  std::span<const std::byte> load(CachePos at, std::byte* buffer, bool* unreadable) const;
  Result<LogItem> read_kset(KsetState state);
  // There is no valid kset here: the end, or the error that says why this is not the end.
  Result<LogItem> end_or_damage();
  Result<LogItem> past_damage(const Error& damage, std::optional<CachePos> follower);
  Result<LogItem> past_unreadable();
  // Where a kset with this header leads to, if the log goes on there.
  std::optional<CachePos> live_follower(const media::KsetHeader& header) const;
  bool is_of_this_life(CachePos at) const;
  std::optional<Error> sealed_with_wrong_count(const media::KsetHeader& header) const;
  bool one_field_was_damaged(std::span<std::byte> window) const;
  std::optional<uint64_t> lost_pass_flags(std::span<const std::byte> window) const;

  const Pmem& pmem_;
  const SegmentTable& segments_;
  const CachePos from_;
  CachePos pos_;
  const Options options_;
  // A cache may grow meanwhile, and a log lead on into what is new.
  bool passed(SegId seg) const { return seg.v < passed_.size() && passed_[seg.v]; }
  void pass(SegId seg);
  std::vector<bool> passed_;  // segments that the log has passed
  alignas(8) std::byte buffer_[media::kMaxKsetBytes];
};

}  // namespace pcache
