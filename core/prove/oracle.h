// SPDX-License-Identifier: GPL-2.0-or-later
// Oracle: what the user may find on the logical device after a crash. It knows what was requested
// and what was acknowledged.
//
// For each sector the oracle knows the versions in the order of writing, and when (in events of the
// Trace) each was submitted, and when a FLUSH or FUA that covers it was acknowledged. After a crash
// a sector has one whole version, none older than its newest durable one. The backing device alone
// may be behind, but not out of order: if a version on it was submitted after others were
// acknowledged as durable, it has those, or newer ones, too.
//
// A sector's content tells its version and its place: content(). Zeros do not tell which of the
// versions that are zeros they are: what is found is taken for the one that excuses it.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"

namespace pcache {

// The number of the request that wrote it, from 1 on; 0: the backing device's first content.
using VersionId = uint32_t;
// Data of a segment's earlier life, which no request of this life wrote.
inline constexpr VersionId kEarlierLife = 0xffffff;
// Found: one of those that are zeros.
inline constexpr VersionId kZeros = kEarlierLife - 1;

class Oracle {
 public:
  // The version of each sector that was found.
  using Found = std::map<uint64_t, VersionId>;

  static std::vector<std::byte> content(VersionId version, uint64_t off, uint64_t len);
  // Nothing: the bytes are no whole version of any sector.
  static std::optional<VersionId> version_of(uint64_t sector, const std::byte* bytes);

  // Events of the trace so far; negative: in a life that a crash has ended.
  using Time = int64_t;
  // Requests of one sector do not overlap in time.
  VersionId begin_write(const Extent& extent, Time time, bool preflush = false, bool zeros = false);
  // The write is acknowledged; `durable`: it was FUA, or `on_device`: the backing device has it,
  // flushed.
  void end_write(VersionId version, bool durable, Time time, bool on_device = false);
  // A FLUSH is acknowledged now; when it was submitted covers() was `covered`.
  using Covered = size_t;
  Covered covers() const { return acknowledged_.size(); }
  void end_flush(Covered covered, Time time);

  // Every sector that was ever written.
  std::vector<uint64_t> sectors() const;
  VersionId newest(uint64_t sector) const;
  // Whether it is the newest acknowledged version, or one submitted after it.
  bool may_read(uint64_t sector, VersionId version) const;

  // Empty: allowed after a crash in front of event `time`. Else what is wrong; it begins with
  // "lost: " or "resurrected: ".
  std::string judge(const Found& found, Time time) const;
  std::string judge_device(const Found& found, Time time) const;
  // Whatever the order: what was acknowledged on the device is there.
  std::string judge_on_device(const Found& found, Time time) const;

  // A format: until `begun` all may still be as in `before`; until `done` the cache may be refused.
  void note_format(const Found& before, Time begun, Time done) {
    before_format_ = before, format_begun_ = begun, format_done_ = done;
  }
  bool not_formatted_yet(const Found& found, Time time) const {
    return time <= format_begun_ && found == before_format_;
  }
  bool may_be_refused(Time time) const { return time <= format_done_; }

  // After a crash and recovery: what was found is all there is, and durable. Time begins anew; the
  // order of the old life's writes is kept.
  void collapse(const Found& found, Time now);
  // The same after a process was killed and its successor has recovered, by `now`: time goes on.
  void go_on(const Found& found, Time now);

 private:
  struct Version {
    VersionId id;
    Time submitted;
    Time durable;  // kNever: not yet
    bool acknowledged;
    bool zeros = false;
    Time on_device = kNever;
  };
  static constexpr Time kNever = INT64_MAX;
  std::string judge_preflush(const Found& found) const;
  void keep_found(const Found& found, Time now);
  // Of zeros the newest, or the oldest, that was submitted by `time`.
  enum class Zeros { kNewest, kOldest };
  static size_t index_of(const std::vector<Version>& versions, VersionId id, Time time = kNever,
                         Zeros which = Zeros::kNewest);

  std::map<uint64_t, std::vector<Version>> versions_;  // by sector, oldest first
  std::map<VersionId, Extent> writes_;
  std::vector<VersionId> acknowledged_;
  VersionId last_ = 0;
  std::map<VersionId, Covered> preflush_;  // acknowledged before a write with PREFLUSH
  Found before_format_;
  Time format_begun_ = INT64_MIN, format_done_ = INT64_MIN;
};

}  // namespace pcache
