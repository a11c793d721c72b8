// SPDX-License-Identifier: GPL-2.0-or-later
// The log of an image as far as it can be read: every kset and key judged, segments' use and
// references counted anew from it, data places that two keys claim.
//
// Where attach refuses, this goes on behind the damage when the log tells how. Reads only. One
// thread.
#pragma once

#include <functional>
#include <memory>
#include <set>

#include "base/range_set.h"
#include "inspect/frame_survey.h"
#include "keylog/log_cursor.h"

namespace pcache {

enum class KeyState : uint8_t {
  kLive,
  kDead,     // of a generation that is gone
  kInvalid,  // a number in it is out of bounds
};

struct SurveyedKey {
  media::Key key{};
  KeyState state = KeyState::kLive;
  bool dirty = false;
};

// A kset as it is walked over: its item, whether dirty_tail has been passed, its keys (empty for a
// LAST or a lost one).
struct SurveyedKset {
  const LogItem& item;
  bool behind_dirty_tail = false;
  std::span<const SurveyedKey> keys;
};

struct LogSurvey {
  std::unique_ptr<SegmentTable> segments;  // generations raised to what the log proves
  std::vector<SegmentUse> use;             // by SegId
  std::vector<uint64_t> live_keys;         // by SegId: the references
  CachePos start, head;                    // head: where the log ends, or could not be followed
  bool walked = false;                     // else no position to begin at is known
  bool whole = false;                      // followed to its end without damage
  bool torn_tail = false;
  uint64_t ksets = 0, keys = 0, dead_keys = 0, invalid_keys = 0;
  uint64_t dirty_ksets = 0, dirty_keys = 0;
  uint64_t dirty_key_bytes = 0;  // of those keys, as appended: what was written twice counts twice
  // Of dead dirty keys behind dirty_tail, but for what later dirty keys name again: it is nowhere.
  RangeSet lost;
  uint64_t key_bytes = 0;     // of all keys that are sound, as appended
  uint64_t logical_end = 0;   // the end of the last range that a key names, bytes
  std::set<uint64_t> ranges;  // of 4 MiB, that any key names; others are not cached

  uint32_t segments_in_use() const;
};

// `bounds`: n_segs is that of the frame; device_bytes UINT64_MAX when the backing device is not
// known. `visit` is called for each kset, in log order.
LogSurvey survey_log(Pmem& pmem, const FrameSurvey& frame, const Bounds& bounds, Findings* findings,
                     const std::function<void(const SurveyedKset&)>& visit = nullptr);

}  // namespace pcache
