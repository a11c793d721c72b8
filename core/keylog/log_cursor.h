// SPDX-License-Identifier: GPL-2.0-or-later
// LogCursor: the one reader of the log, for replay, writeback, reclaim and the tools.
//
// Invariants
// - next() gives one of three: an item, the end of the log, or an error. The end is where the
//   header is cleared, or torn by a crash while it was written. A kset that is broken while valid
//   ksets of the same life follow it is not the end but damage: what follows was acknowledged. (Of
//   this life is what names data of a generation that is not gone, or leads on to another segment.)
// - Nothing from media is trusted: a LAST kset to a segment that is out of range or was passed
//   already is an error.
// - With `until` the cursor ends there and looks at nothing behind it, so it can follow a log that
//   is being appended to.
// - `salvage` is for tools that take what can be had of a damaged log: where next() would report
//   damage and knows how the log goes on, it gives an item that says so and goes on there. Behind a
//   place that cannot be read that is the next kset which looks like one of this life.
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
  bool torn = false;                 // kEnd: something was there, and it was not valid
  // Salvage: what was wrong. A kset that comes with it is whole but for one field of its header,
  // which its crc has told.
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
  // What stands here is no valid kset: is it the end? Else the error that says why not.
  Result<LogItem> end_or_damage();
  Result<LogItem> past_damage(const Error& damage, std::optional<CachePos> follower);
  Result<LogItem> past_unreadable();
  // Where a kset with this header leads to, if the log goes on there.
  std::optional<CachePos> live_follower(const media::KsetHeader& header) const;
  bool is_of_this_life(CachePos at) const;
  std::optional<Error> sealed_with_wrong_count(const media::KsetHeader& header) const;

  const Pmem& pmem_;
  const SegmentTable& segments_;
  CachePos pos_;
  const Options options_;
  std::vector<bool> passed_;  // segments the log has been through
  alignas(8) std::byte buffer_[media::kMaxKsetBytes];
};

}  // namespace pcache
