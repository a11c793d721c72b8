// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/space_policy.h"

#include <algorithm>

#include "base/check.h"

namespace pcache {

namespace {

uint64_t batch_bytes(uint32_t segments, uint32_t part, uint64_t most_bytes) {
  return std::clamp<uint64_t>(segments * media::kSegmentBytes / part, kLeastBatchBytes, most_bytes);
}

bool free_for_data_at_most(const SpaceCounts& now, uint32_t segments) {
  return now.free_segments <= uint64_t{now.log_reserve_segments} + segments;
}

bool in_use_from(const SpaceCounts& now, uint32_t percent) {
  return now.segments - now.free_segments >= gc_threshold_segments(now.segments, percent);
}

const SpaceLimits::Shortage& shortage(const SpaceLimits& limits, const SpaceCounts& now) {
  return now.moving_pays ? limits.moving : limits.writing;
}

// Of batches of so many bytes.
SpaceLimits::Shortage shortage_of(uint32_t segments, uint64_t batch_bytes, uint32_t most_throttle) {
  SpaceLimits::Shortage shortage;
  shortage.batch_bytes = batch_bytes;
  shortage.throttle_segments =
      std::clamp(segments / kThrottlePart, kLeastThrottleSegments, most_throttle) +
      static_cast<uint32_t>(batch_bytes / media::kSegmentBytes);
  shortage.move_segments =
      shortage.throttle_segments +
      std::clamp(segments / kMoveAheadPart, kLeastMoveAheadSegments, kMostMoveAheadSegments);
  return shortage;
}

// Whoever throttles must see to it that credit comes: a device that fails, or that has nothing to
// write, grants none.
bool throttles(const SpaceLimits& limits, const SpaceCounts& now) {
  if (now.device_failing || now.all_passed || now.log_damaged) return false;
  return free_for_data_at_most(now, shortage(limits, now).throttle_segments +
                                        (now.throttled ? kThrottleHysteresisSegments : 0));
}

uint64_t percent_bytes(const SpaceCounts& now, uint32_t percent) {
  return now.segments * media::kSegmentBytes / 100 * percent;
}

// Above the low limit.
uint64_t too_dirty_bytes(const SpaceCounts& now) {
  return now.dirty_bytes -
         std::min(now.dirty_bytes, percent_bytes(now, now.dirty_limits.low_percent));
}

bool cleans(const SpaceCounts& now) {
  const uint32_t high = now.dirty_limits.high_percent;
  if (high >= 100 || too_dirty_bytes(now) == 0) return false;
  return now.cleaning || now.dirty_bytes >= percent_bytes(now, high);
}

bool waits_for_ever(const SpaceCounts& now) {
  if (now.waiting_requests == 0) return false;
  if (now.log_damaged) return true;
  // What is to be written back then may be on its way into the log.
  if (now.waits_for_writeback) return false;
  return now.all_passed && !now.reclaimable && (now.retired_segments > 0 || now.damaged_data_left);
}

}  // namespace

uint32_t data_heads(uint32_t segments) {
  return std::clamp(segments / kSegmentsOfAHead, 1u, kMostHeads);
}

uint32_t log_reserve_segments(uint32_t segments) {
  const uint32_t heads = data_heads(segments) + 2;
  return kLogSegmentsAhead + (heads + kDataSegmentsOfALogSegment - 1) / kDataSegmentsOfALogSegment;
}

SpaceLimits space_limits(uint32_t segments) {
  SpaceLimits limits;
  const uint64_t hurried = batch_bytes(segments, kHurriedBatchPart, kMostHurriedBatchBytes);
  limits.writing = shortage_of(segments, hurried, kMostThrottleSegments);
  limits.moving =
      shortage_of(segments, std::min(hurried, kMostMovingBatchBytes), kMostMovingThrottleSegments);
  limits.idle_batch_bytes = batch_bytes(segments, kIdleBatchPart, kMostIdleBatchBytes);
  limits.quiet_bytes = hurried;
  PCACHE_CHECK(hurried <= limits.idle_batch_bytes &&
               limits.idle_batch_bytes <= limits.drain_batch_bytes);
  return limits;
}

SpaceActions decide(const SpaceLimits& limits, const SpaceCounts& now) {
  PCACHE_CHECK(now.free_segments <= now.segments && now.retired_segments <= now.segments);
  const SpaceLimits::Shortage& when_short = shortage(limits, now);
  const bool waits = now.waiting_requests > 0, for_writeback = waits && now.waits_for_writeback;
  const bool wanted =
      (waits && !for_writeback) || free_for_data_at_most(now, when_short.throttle_segments);
  const bool soon = wanted || for_writeback || free_for_data_at_most(now, when_short.move_segments);
  const bool hurry =
      wanted || for_writeback ||
      (now.moving_pays ? soon : in_use_from(now, std::max(now.gc_percent, kLeastHurryPercent)));
  SpaceActions actions;
  actions.clean = cleans(now);
  actions.throttle = throttles(limits, now);
  actions.reclaim = wanted || in_use_from(now, now.gc_percent);
  actions.write_back =
      (hurry || actions.clean || now.device_awaited) && !now.all_passed && !now.log_damaged;
  // Where no space comes free the device is all that is left.
  const bool writes = !hurry || actions.clean || now.device_awaited || now.reclaim_stands_still;
  // Reclaim, which is at work, asks again when it has come to dirty_tail.
  const bool leaves_all = now.moving_pays && now.reclaimable && actions.reclaim;
  actions.live = now.draining ? LiveData::kDrain
                 : writes     ? LiveData::kWrite
                 : leaves_all ? LiveData::kLeaveAll
                 : soon       ? LiveData::kMove
                              : LiveData::kLeave;
  actions.reason = now.draining         ? WriteReason::kDrain
                   : hurry              ? WriteReason::kSpace
                   : now.device_awaited ? WriteReason::kAwaited
                   : actions.clean      ? WriteReason::kDirtyLimit
                                        : WriteReason::kIdle;
  const bool for_space = hurry && !(for_writeback && !wanted);
  actions.bytes_per_second =
      now.draining || for_space || now.device_awaited ? 0 : now.dirty_limits.bytes_per_second;
  actions.fail_waiting = waits_for_ever(now);
  actions.batch_bytes = now.draining ? limits.drain_batch_bytes
                        : hurry      ? when_short.batch_bytes
                                     : limits.idle_batch_bytes;
  uint64_t most_bytes = actions.batch_bytes;
  if (actions.reason == WriteReason::kDirtyLimit)
    most_bytes = std::min(most_bytes, too_dirty_bytes(now));
  if (actions.bytes_per_second > 0) most_bytes = std::min(most_bytes, actions.bytes_per_second);
  if (most_bytes < actions.batch_bytes)
    actions.batch_bytes = std::max(most_bytes, kLeastLimitedBatchBytes);
  actions.several_threads = now.draining || ((wanted || for_writeback) && !now.device_failing);
  actions.depth = hurry && !now.draining ? kHurriedDepth : kDeepestQueue;
  return actions;
}

bool none_left_for_data(uint32_t segments, uint32_t retired_segments,
                        uint32_t log_reserve_segments) {
  return retired_segments > 0 && segments - retired_segments <= 1 + uint64_t{log_reserve_segments};
}

}  // namespace pcache
