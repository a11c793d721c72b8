// SPDX-License-Identifier: GPL-2.0-or-later
// Space policy: what a cache does when space is short, as a function of counts.
//
// space_limits() says what follows from the size of a cache, once. decide() says what is to be done
// now: whether writes are throttled, whether reclaim and writeback work at once, and in which
// batches. Both are pure: they take no lock, keep nothing and read nothing. What depends on the
// past is an input: `throttled`, so that throttling does not end where it begins.
//
// Who calls decide(), and when, is in background/worker.h. All constants about space stand here.
#pragma once

#include <cstdint>

#include "format/media.h"

namespace pcache {

// A data head holds a segment that may stay part empty: a small cache cannot afford many.
inline constexpr uint32_t kSegmentsOfAHead = 16;
// More threads than that share heads: one costs a lock and a line, and holds 16 MiB.
inline constexpr uint32_t kMostHeads = 64;

// 512-byte FUA writes that fill eight data segments fill one log segment: each appends 64 bytes.
inline constexpr uint32_t kDataSegmentsOfALogSegment = 8;
// The log needs its next segment at once, and one more to roll into.
inline constexpr uint32_t kLogSegmentsAhead = 2;

// A batch's space comes free only at its end, so while space is short a batch is a 32nd of the
// cache.
inline constexpr uint32_t kHurriedBatchPart = 32;
// Throttling begins a batch earlier: a larger one would keep more of the cache from use.
inline constexpr uint64_t kMostHurriedBatchBytes = 64 << 20;
// A larger batch sorts and merges better: an eighth of the cache, while there is time.
inline constexpr uint32_t kIdleBatchPart = 8;
// A request that begins to wait during such a batch waits for all of it.
inline constexpr uint64_t kMostIdleBatchBytes = 256 << 20;
// Each batch costs a flush of the device: a smaller one would be a flush for a few writes.
inline constexpr uint64_t kLeastBatchBytes = 8 << 20;
// Nobody waits for the space of a drain. Sorted over 1 GiB, random 4 KiB data was written twice as
// fast as in batches of 64 MiB.
inline constexpr uint64_t kDrainBatchBytes = uint64_t{1} << 30;

// Writeback keeps at most this many device writes in flight, when space is not short and in a
// drain.
inline constexpr unsigned kDeepestQueue = 128;
// With a deep queue many device writes complete together, so the writers that they let in arrive
// together and wait between two such bursts.
inline constexpr unsigned kHurriedDepth = 32;

// Throttling begins while there is still room for what is let in during one batch, and for these:
// a batch's space comes free unevenly, since the keys of a segment are in the ksets of many
// stripes.
inline constexpr uint32_t kThrottlePart = 6;
inline constexpr uint32_t kLeastThrottleSegments = 2, kMostThrottleSegments = 6;
// What is moved waits for no device and costs no flush, so where that pays a batch is no more than
// a segment, and fewer segments are kept free: what is not free holds superseded data. Of 4 KiB
// writes over half of 2 GiB 0.40 bytes were moved for each that was written, and 0.47 with the two
// numbers above, at the same speed.
inline constexpr uint64_t kMostMovingBatchBytes = media::kSegmentBytes;
inline constexpr uint32_t kMostMovingThrottleSegments = 4;
// Throttling ends one segment above where it begins: a batch that is passed must not let a burst
// in.
inline constexpr uint32_t kThrottleHysteresisSegments = 1;
// Credit that no writer takes is kept up to here. More would be a burst; what is not used lets the
// free space grow.
inline constexpr int64_t kMostCreditBytes = 1 << 20;
// Writeback holds back 1/64 of a batch's credit and grants it while it marks the batch clean.
// Marking takes about that share of the time on a device that writes 100,000 pages a second.
inline constexpr uint64_t kMarkingShare = 64;

// Below half of the segments in use nobody hurries the backing device, whatever gc_percent says: a
// small gc_percent asks for little cached data and not for a busy device.
inline constexpr uint32_t kLeastHurryPercent = 50;

// Where dirty data can be moved that is not superseded, that waits until so many segments more than
// throttle_segments are free for data: the later, the more of it is superseded meanwhile. They hold
// a batch until it is done.
inline constexpr uint32_t kMoveAheadPart = 32;
inline constexpr uint32_t kLeastMoveAheadSegments = 1, kMostMoveAheadSegments = 4;

// What a user limits is done in steps of at least that much: each costs a flush of the device.
inline constexpr uint64_t kLeastLimitedBatchBytes = 1 << 20;

// A step of reclaim ends with the first of these two, so that cached data is not given up by the
// gigabyte for one request.
inline constexpr uint32_t kReclaimStepKsets = 64;
inline constexpr uint64_t kReclaimStepBytes = media::kSegmentBytes;
// So many steps in a row, and old ksets have their turn to be closed.
inline constexpr uint32_t kReclaimStepsInARow = 16;

// How many data heads a cache has.
uint32_t data_heads(uint32_t segments);
// Free segments that data may not take, so that the log can always roll: for the log of what the
// open heads can still write, with the two that move data, and kLogSegmentsAhead.
uint32_t log_reserve_segments(uint32_t segments);
// Garbage collection works from so many segments in use on: 21 of 31 at 70 percent. The kernel
// target rounds down, too.
constexpr uint32_t gc_threshold_segments(uint32_t segments, uint32_t percent) {
  return static_cast<uint32_t>(uint64_t{segments} * percent / 100);
}

// What follows from the size of a cache.
struct SpaceLimits {
  struct Shortage {
    uint32_t throttle_segments = 0;           // free for data: from here on writes are throttled
    uint32_t move_segments = 0;               // free for data: from here on data is moved
    uint64_t batch_bytes = kLeastBatchBytes;  // of data as appended, as all of these
  };
  Shortage writing;  // where what is not superseded goes to the device
  Shortage moving;   // where moving it pays
  uint64_t idle_batch_bytes = kLeastBatchBytes;
  uint64_t drain_batch_bytes = kDrainBatchBytes;
  // Fewer than that written in 5 s, or an interval of writeback: all that is dirty is written back.
  uint64_t quiet_bytes = kLeastBatchBytes;
};
SpaceLimits space_limits(uint32_t segments);

// What a user allows of data that is newer than on the backing device.
struct DirtyLimits {
  // Of the cache's size. From high_percent on dirty data is written back, until low_percent are
  // left. 100: as much as there is room for. 0: all is written back at once (a cleaner).
  uint32_t high_percent = 100, low_percent = 100;
  // What is written for that, and for no better reason than that there is time. 0: no limit.
  uint64_t bytes_per_second = 0;
};

// How things stand. Whoever cannot know one of the flags leaves it as it is.
struct SpaceCounts {
  uint32_t segments = 0;
  uint32_t free_segments = 0;         // with those that are reserved
  uint32_t log_reserve_segments = 0;  // of the free ones: data may not take them
  uint32_t retired_segments = 0;      // with a bad page
  uint32_t waiting_requests = 0;      // that found no space, or no credit
  bool waits_for_writeback = false;   // the first of these does, and for no space
  bool device_awaited = false;        // writes wait until the backing device has them
  uint32_t gc_percent = media::kGcPercentDefault;
  uint64_t dirty_bytes = 0;  // each byte once
  DirtyLimits dirty_limits{};
  bool cleaning = false;        // since dirty_limits.high_percent was reached
  bool throttled = false;       // now: see kThrottleHysteresisSegments
  bool device_failing = false;  // the last step of writeback failed
  bool moving_pays = false;     // of dirty data at dirty_tail, as writeback has met it last
  bool draining = false;        // all dirty data is to be written back, and no space is wanted
  bool all_passed = false;      // writeback has passed all that it can pass now
  // Reclaim is behind dirty_tail: space comes free without the device. (Where superseded data is
  // passed at once, writeback would otherwise overtake it, and write what is live at the head.)
  bool reclaimable = false;
  bool reclaim_stands_still = false;  // for good: a damaged log, or no record of where it begins
  bool log_damaged = false;           // a kset cannot be read: they never pass it
  bool damaged_data_left = false;     // dirty data that cannot be read: its keys are never passed
};

// What writeback does with dirty data that is not superseded, where the barriers allow to move it
// and that is cheaper.
enum class LiveData : uint8_t {
  kWrite,  // to the backing device all the same
  kMove,
  kLeave,  // nothing, now
  // The same, whatever is cheaper.
  kLeaveAll,
  // As kWrite. What supersedes data must itself be drained, so nothing that comes behind the end of
  // the drain counts.
  kDrain,
  kMoveAnyhow,  // as kMove, whatever it costs; for tests and simulators
};

// Why data is written to the backing device.
enum class WriteReason : uint8_t { kIdle, kSpace, kAwaited, kDirtyLimit, kDrain };

// What is to be done now.
struct SpaceActions {
  bool throttle = false;      // writes are let in as writeback goes along
  bool reclaim = false;       // up to dirty_tail
  bool write_back = false;    // at once, and not only in its interval
  bool clean = false;         // dirty_limits want it
  bool fail_waiting = false;  // requests that wait would wait for ever: they fail
  LiveData live = LiveData::kWrite;
  WriteReason reason = WriteReason::kIdle;
  uint64_t bytes_per_second = 0;   // at most so many; 0: no limit
  uint64_t batch_bytes = 0;        // of the next batch of writeback, whenever it is
  unsigned depth = kDeepestQueue;  // of the device's queue for it
  // Several threads write it: requests wait for space, or who drains waits for the end. Else they
  // would take CPUs from requests.
  bool several_threads = false;
};
SpaceActions decide(const SpaceLimits& limits, const SpaceCounts& now);

// So many segments are retired that none will ever come free for data: one is the log's.
bool none_left_for_data(uint32_t segments, uint32_t retired_segments,
                        uint32_t log_reserve_segments);

}  // namespace pcache
