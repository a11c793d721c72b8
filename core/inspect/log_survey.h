// SPDX-License-Identifier: GPL-2.0-or-later
// The log of an image, as far as it can be read: judges every kset and key, counts each segment's
// use and references from it, and finds data places that two keys name.
//
// Where attach refuses, this goes on behind the damage, if the log shows how. Reads only. One
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
  kDead,     // of an older generation
  kInvalid,  // a number in it is out of bounds
};

struct SurveyedKey {
  media::Key key{};
  KeyState state = KeyState::kLive;
  bool dirty = false;
};

// A kset of the walk: its item, whether it is behind dirty_tail, its keys (empty for a LAST or a
// lost kset).
struct SurveyedKset {
  const LogItem& item;
  bool behind_dirty_tail = false;
  std::span<const SurveyedKey> keys;
};

struct LogSurvey {
  std::unique_ptr<SegmentTable> segments;  // generations raised to those in the log
  std::vector<SegmentUse> use;             // by SegId
  std::vector<uint64_t> live_keys;         // by SegId: the references
  CachePos start, head;                    // head: the log's end, or where it is damaged
  bool walked = false;                     // false: it is not known where to begin
  bool whole = false;                      // followed to its end without damage
  bool torn_tail = false;
  uint64_t ksets = 0, keys = 0, dead_keys = 0, invalid_keys = 0;
  uint64_t dirty_ksets = 0, dirty_keys = 0;
  uint64_t dirty_key_bytes = 0;  // as appended: a byte written twice counts twice
  // The ranges of dead dirty keys behind dirty_tail that no later dirty key names: lost data.
  RangeSet lost;
  uint64_t key_bytes = 0;     // of all keys that are sound, as appended
  uint64_t logical_end = 0;   // the end of the last range that a key names, bytes
  std::set<uint64_t> ranges;  // of 4 MiB, which keys name

  uint32_t segments_in_use() const;
};

// `bounds`: n_segs is the frame's; device_bytes is UINT64_MAX if the backing device is not known.
// Calls `visit` for each kset, in log order.
LogSurvey survey_log(Pmem& pmem, const FrameSurvey& frame, const Bounds& bounds, Findings* findings,
                     const std::function<void(const SurveyedKset&)>& visit = nullptr);

}  // namespace pcache
