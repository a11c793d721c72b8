// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/space_policy.h"

#include <gtest/gtest.h>

#include <string>

namespace pcache {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// 512 MiB, the smallest device, have 31 segments; 1 Mi segments are the format's most.
TEST(SpaceLimits, FollowFromTheSizeOfTheCache) {
  struct Row {
    uint32_t segments, heads, log_reserve, throttle, moving_throttle, move_ahead;
    uint64_t hurried_bytes, idle_bytes;
  };
  constexpr Row kRows[] = {
      {1, 1, 3, 2, 2, 1, 8 * kMiB, 8 * kMiB},
      {11, 1, 3, 2, 2, 1, 8 * kMiB, 22 * kMiB},
      {16, 1, 3, 2, 2, 1, 8 * kMiB, 32 * kMiB},
      {18, 1, 3, 3, 3, 1, 9 * kMiB, 36 * kMiB},
      {31, 1, 3, 5, 4, 1, 31 * kMiB / 2, 62 * kMiB},
      {32, 2, 3, 5 + 1, 4 + 1, 1, 16 * kMiB, 64 * kMiB},
      {63, 3, 3, 6 + 1, 4 + 1, 1, 63 * kMiB / 2, 126 * kMiB},
      {64, 4, 3, 6 + 2, 4 + 1, 2, 32 * kMiB, 128 * kMiB},
      {128, 8, 4, 6 + 4, 4 + 1, 4, 64 * kMiB, 256 * kMiB},
      {144, 9, 4, 6 + 4, 4 + 1, 4, 64 * kMiB, 256 * kMiB},
      {1023, 63, 11, 6 + 4, 4 + 1, 4, 64 * kMiB, 256 * kMiB},
      {1024, 64, 11, 6 + 4, 4 + 1, 4, 64 * kMiB, 256 * kMiB},
      {media::kMaxSegments, 64, 11, 6 + 4, 4 + 1, 4, 64 * kMiB, 256 * kMiB},
  };
  for (const Row& row : kRows) {
    SCOPED_TRACE(std::to_string(row.segments) + " segments");
    EXPECT_EQ(data_heads(row.segments), row.heads);
    EXPECT_EQ(log_reserve_segments(row.segments), row.log_reserve);
    const SpaceLimits limits = space_limits(row.segments);
    EXPECT_EQ(limits.writing.throttle_segments, row.throttle);
    EXPECT_EQ(limits.writing.move_segments, row.throttle + row.move_ahead);
    EXPECT_EQ(limits.writing.batch_bytes, row.hurried_bytes);
    EXPECT_EQ(limits.moving.throttle_segments, row.moving_throttle);
    EXPECT_EQ(limits.moving.move_segments, row.moving_throttle + row.move_ahead);
    EXPECT_EQ(limits.moving.batch_bytes, std::min(row.hurried_bytes, 16 * kMiB));
    EXPECT_EQ(limits.idle_batch_bytes, row.idle_bytes);
    EXPECT_EQ(limits.drain_batch_bytes, 1024 * kMiB);
    EXPECT_EQ(limits.quiet_bytes, row.hurried_bytes);
  }
}

TEST(SpaceLimits, GcBeginsAtAWholeNumberOfSegments) {
  EXPECT_EQ(gc_threshold_segments(31, 70), 21u);
  EXPECT_EQ(gc_threshold_segments(31, 0), 0u);
  EXPECT_EQ(gc_threshold_segments(8, 63), 5u);
  EXPECT_EQ(gc_threshold_segments(media::kMaxSegments, 90), 943718u);
}

// "throttle reclaim write-back fail", and the batch: h(urried), i(dle), d(rain), with its depth.
std::string told(const SpaceLimits& limits, const SpaceCounts& now) {
  const SpaceActions actions = decide(limits, now);
  std::string text;
  const auto add = [&text](bool on, const char* what) {
    if (on) text += std::string(what) + " ";
  };
  add(actions.throttle, "throttle");
  add(actions.reclaim, "reclaim");
  add(actions.write_back, "write-back");
  add(actions.fail_waiting, "fail");
  text += actions.batch_bytes == limits.writing.batch_bytes ? "h"
          : actions.batch_bytes == limits.idle_batch_bytes  ? "i"
          : actions.batch_bytes == limits.drain_batch_bytes ? "d"
                                                            : "?";
  return text + std::to_string(actions.depth);
}

struct Case {
  const char* what;
  SpaceCounts now;
  const char* expected;
};

// The smallest cache: 31 segments, 3 reserved for the log, throttled from 5 more on.
TEST(SpacePolicy, OfTheSmallestCache) {
  const Case kCases[] = {
      {"empty", {.free_segments = 31}, "i128"},
      {"one short of half, and of gc_percent", {.free_segments = 17}, "i128"},
      {"half in use: no matter at 70 percent", {.free_segments = 15}, "i128"},
      {"one short of gc_percent", {.free_segments = 11}, "i128"},
      {"at gc_percent", {.free_segments = 10}, "reclaim write-back h32"},
      {"the last before throttling", {.free_segments = 9}, "reclaim write-back h32"},
      {"throttling begins", {.free_segments = 8}, "throttle reclaim write-back h32"},
      {"only the log's are left", {.free_segments = 3}, "throttle reclaim write-back h32"},
      {"none is left", {.free_segments = 0}, "throttle reclaim write-back h32"},
      {"it goes on one segment longer",
       {.free_segments = 9, .throttled = true},
       "throttle reclaim write-back h32"},
      {"and ends there", {.free_segments = 10, .throttled = true}, "reclaim write-back h32"},
      {"a smaller gc_percent, below half: the device is not hurried",
       {.free_segments = 20, .gc_percent = 30},
       "reclaim i128"},
      {"and from half on it is", {.free_segments = 16, .gc_percent = 30}, "reclaim write-back h32"},
      {"gc_percent 0 keeps nothing", {.free_segments = 31, .gc_percent = 0}, "reclaim i128"},
      {"gc_percent 90: low space comes first",
       {.free_segments = 8, .gc_percent = 90},
       "throttle reclaim write-back h32"},
      {"gc_percent 90, one more free", {.free_segments = 9, .gc_percent = 90}, "i128"},
      {"a request waits, though nothing is near a limit",
       {.free_segments = 31, .waiting_requests = 1},
       "reclaim write-back h32"},
      {"it waits for writeback: nothing clean is given up for it",
       {.free_segments = 31, .waiting_requests = 1, .waits_for_writeback = true},
       "write-back h32"},
      {"nobody waits any more", {.free_segments = 31, .waits_for_writeback = true}, "i128"},
      {"writes wait until the device has them",
       {.free_segments = 31, .device_awaited = true},
       "write-back i128"},
      {"and space is short besides",
       {.free_segments = 8, .device_awaited = true},
       "throttle reclaim write-back h32"},
      {"and space is short besides",
       {.free_segments = 8, .waiting_requests = 1, .waits_for_writeback = true},
       "throttle reclaim write-back h32"},
  };
  for (Case row : kCases) {
    row.now.segments = 31;
    row.now.log_reserve_segments = 3;
    EXPECT_EQ(told(space_limits(31), row.now), row.expected) << row.what;
  }
}

TEST(SpacePolicy, OfTheLargestCache) {
  constexpr uint32_t kMost = media::kMaxSegments;  // 70 percent: 734003, 314573 free
  const Case kCases[] = {
      {"one short of gc_percent", {.free_segments = 314574}, "i128"},
      {"at gc_percent", {.free_segments = 314573}, "reclaim write-back h32"},
      {"the last before throttling", {.free_segments = 22}, "reclaim write-back h32"},
      {"throttling begins", {.free_segments = 21}, "throttle reclaim write-back h32"},
  };
  for (Case row : kCases) {
    row.now.segments = kMost;
    row.now.log_reserve_segments = log_reserve_segments(kMost);
    EXPECT_EQ(told(space_limits(kMost), row.now), row.expected) << row.what;
  }
}

// No credit is granted, or nothing comes free: no writer may wait for it.
TEST(SpacePolicy, WhereNothingComesFree) {
  const Case kCases[] = {
      {"a device that fails grants no credit",
       {.free_segments = 4, .device_failing = true},
       "reclaim write-back h32"},
      {"nor if it is on already",
       {.free_segments = 4, .throttled = true, .device_failing = true},
       "reclaim write-back h32"},
      {"who waits for a device that fails goes on waiting",
       {.free_segments = 3, .retired_segments = 5, .waiting_requests = 2, .device_failing = true},
       "reclaim write-back h32"},
      {"all is passed: reclaim goes on, writeback has nothing",
       {.free_segments = 4, .throttled = true, .all_passed = true},
       "reclaim h32"},
      {"who waits then is let go on when a segment comes free",
       {.free_segments = 3, .waiting_requests = 1, .all_passed = true},
       "reclaim h32"},
      {"but retired segments never do",
       {.free_segments = 3, .retired_segments = 1, .waiting_requests = 1, .all_passed = true},
       "reclaim fail h32"},
      {"nor does what holds data that cannot be read",
       {.free_segments = 3, .waiting_requests = 1, .all_passed = true, .damaged_data_left = true},
       "reclaim fail h32"},
      {"unless reclaim is behind writeback: then space comes free yet",
       {.free_segments = 3,
        .retired_segments = 1,
        .waiting_requests = 1,
        .all_passed = true,
        .reclaimable = true},
       "reclaim h32"},
      {"without anything left to be passed only",
       {.free_segments = 3,
        .retired_segments = 1,
        .waiting_requests = 1,
        .damaged_data_left = true},
       "throttle reclaim write-back h32"},
      {"and nobody fails who does not wait",
       {.free_segments = 3, .retired_segments = 1, .all_passed = true},
       "reclaim h32"},
      {"a log that is damaged ends both",
       {.free_segments = 3, .waiting_requests = 1, .log_damaged = true},
       "reclaim fail h32"},
  };
  for (Case row : kCases) {
    row.now.segments = 31;
    row.now.log_reserve_segments = 3;
    EXPECT_EQ(told(space_limits(31), row.now), row.expected) << row.what;
  }
}

TEST(SpacePolicy, ADrainTakesLargeBatchesWhateverSpaceThereIs) {
  for (const uint32_t free : {0u, 8u, 31u}) {
    const SpaceCounts now{
        .segments = 31, .free_segments = free, .log_reserve_segments = 3, .draining = true};
    const SpaceActions actions = decide(space_limits(31), now);
    EXPECT_EQ(actions.batch_bytes, kDrainBatchBytes) << free;
    EXPECT_EQ(actions.depth, kDeepestQueue) << free;
  }
}

// They take CPUs from requests, which go on while nobody waits for writeback.
TEST(SpacePolicy, SeveralThreadsWriteWhatSomebodyWaitsFor) {
  const auto several = [](SpaceCounts now) {
    now.segments = 31;
    now.log_reserve_segments = 3;
    return decide(space_limits(31), now).several_threads;
  };
  EXPECT_TRUE(several({.free_segments = 31, .draining = true}));
  EXPECT_TRUE(several({.free_segments = 8})) << "writes are throttled";
  EXPECT_TRUE(several({.free_segments = 31, .waiting_requests = 1}));
  EXPECT_TRUE(several({.free_segments = 31, .waiting_requests = 1, .waits_for_writeback = true}));
  EXPECT_FALSE(several({.free_segments = 8, .device_failing = true}));
  EXPECT_FALSE(several({.free_segments = 31})) << "idle";
  EXPECT_FALSE(several({.free_segments = 10})) << "at gc_percent";
  EXPECT_FALSE(several({.free_segments = 31, .device_awaited = true}))
      << "small batches, each with a flush";
}

// What is dirty and not superseded, of the smallest cache: where moving pays, throttled from 4 free
// for data on, and moved from one more.
TEST(SpacePolicy, LiveDataIsMovedWhenSpaceIsShort) {
  struct LiveCase {
    const char* what;
    SpaceCounts now;
    bool write_back;
    LiveData live;
  };
  const LiveCase kCases[] = {
      {"nothing is wanted: what writeback does in its interval is for the device",
       {.free_segments = 20},
       false,
       LiveData::kWrite},
      {"the same, whatever pays",
       {.free_segments = 20, .moving_pays = true},
       false,
       LiveData::kWrite},
      {"at gc_percent it looks whether moving pays", {.free_segments = 10}, true, LiveData::kLeave},
      {"and if it does, leaves it",
       {.free_segments = 10, .moving_pays = true},
       false,
       LiveData::kWrite},
      {"one segment sooner, too",
       {.free_segments = 9, .moving_pays = true},
       false,
       LiveData::kWrite},
      {"until space is short", {.free_segments = 8, .moving_pays = true}, true, LiveData::kMove},
      {"and then looks again", {.free_segments = 9}, true, LiveData::kMove},
      {"throttled", {.free_segments = 7, .moving_pays = true}, true, LiveData::kMove},
      {"reclaim is to come first",
       {.free_segments = 7, .moving_pays = true, .reclaimable = true},
       true,
       LiveData::kLeaveAll},
      {"where the device is what makes room it is not waited for",
       {.free_segments = 8, .reclaimable = true},
       true,
       LiveData::kMove},
      {"a request waits", {.free_segments = 31, .waiting_requests = 1}, true, LiveData::kMove},
      {"gc_percent 90 moves no later",
       {.free_segments = 8, .gc_percent = 90, .moving_pays = true},
       true,
       LiveData::kMove},
      {"and is not left to a reclaim that is not at work",
       {.free_segments = 8, .gc_percent = 90, .moving_pays = true, .reclaimable = true},
       true,
       LiveData::kMove},
      {"nor to one that never will be",
       {.free_segments = 7, .moving_pays = true, .reclaimable = true, .reclaim_stands_still = true},
       true,
       LiveData::kWrite},
      {"a drain",
       {.free_segments = 8, .moving_pays = true, .draining = true},
       true,
       LiveData::kDrain},
  };
  for (LiveCase row : kCases) {
    row.now.segments = 31;
    row.now.log_reserve_segments = 3;
    const SpaceActions actions = decide(space_limits(31), row.now);
    EXPECT_EQ(actions.write_back, row.write_back) << row.what;
    EXPECT_EQ(actions.live, row.live) << row.what;
  }
}

// What is moved waits for no device: smaller batches, and fewer segments kept free.
TEST(SpacePolicy, WhereMovingPaysBatchesAreSmallAndWritesAreThrottledLater) {
  const SpaceLimits limits = space_limits(128);
  SpaceCounts now{.segments = 128, .free_segments = 4 + 10, .log_reserve_segments = 4};
  EXPECT_TRUE(decide(limits, now).throttle);
  EXPECT_EQ(decide(limits, now).batch_bytes, 64 * kMiB);
  now.moving_pays = true;
  EXPECT_FALSE(decide(limits, now).throttle);
  now.free_segments = 4 + 5;
  EXPECT_TRUE(decide(limits, now).throttle);
  EXPECT_EQ(decide(limits, now).batch_bytes, 16 * kMiB);
}

TEST(SpacePolicy, DirtyLimitsAreKeptWithHysteresis) {
  struct LimitCase {
    const char* what;
    DirtyLimits limits;
    uint64_t dirty_mib;  // of 496
    bool cleaning, cleans;
  };
  const LimitCase kCases[] = {
      {"no limit", {100, 90}, 496, false, false},
      {"below the high one", {50, 40}, 247, false, false},
      {"it is reached", {50, 40}, 248, false, true},
      {"above the low one it goes on", {50, 40}, 199, true, true},
      {"and ends there", {50, 40}, 198, true, false},
      {"a cleaner begins with the first byte", {0, 0}, 1, false, true},
      {"and has nothing to do", {0, 0}, 0, true, false},
  };
  for (const LimitCase& row : kCases) {
    const SpaceCounts now{.segments = 31,
                          .free_segments = 31,
                          .log_reserve_segments = 3,
                          .dirty_bytes = row.dirty_mib << 20,
                          .dirty_limits = row.limits,
                          .cleaning = row.cleaning};
    const SpaceActions actions = decide(space_limits(31), now);
    EXPECT_EQ(actions.clean, row.cleans) << row.what;
    EXPECT_EQ(actions.write_back, row.cleans) << row.what;
    EXPECT_EQ(actions.live, LiveData::kWrite) << row.what;
    EXPECT_EQ(actions.reason, row.cleans ? WriteReason::kDirtyLimit : WriteReason::kIdle)
        << row.what;
  }
}

// What has to be written anyhow is not moved; and the rate holds for nobody who waits for space.
TEST(SpacePolicy, DirtyLimitsAndWantOfSpace) {
  SpaceCounts now{.segments = 31,
                  .free_segments = 8,
                  .log_reserve_segments = 3,
                  .dirty_bytes = 300 << 20,
                  .dirty_limits = {50, 40, 2 << 20},
                  .moving_pays = true};
  SpaceActions actions = decide(space_limits(31), now);
  EXPECT_EQ(actions.live, LiveData::kWrite);
  EXPECT_EQ(actions.reason, WriteReason::kSpace);
  EXPECT_EQ(actions.bytes_per_second, 0u);
  now.free_segments = 31;
  actions = decide(space_limits(31), now);
  EXPECT_EQ(actions.bytes_per_second, 2u << 20);
  EXPECT_EQ(actions.batch_bytes, 2u << 20) << "of a second";
  now.dirty_limits.bytes_per_second = 1000;
  EXPECT_EQ(decide(space_limits(31), now).batch_bytes, kLeastLimitedBatchBytes);
  now.all_passed = true;
  EXPECT_FALSE(decide(space_limits(31), now).write_back);
  now.all_passed = false;
  now.draining = true;
  actions = decide(space_limits(31), now);
  EXPECT_EQ(actions.live, LiveData::kDrain);
  EXPECT_EQ(actions.reason, WriteReason::kDrain);
  EXPECT_EQ(actions.bytes_per_second, 0u);
}

TEST(SpacePolicy, RetiredSegmentsEndTheCacheWhenOnlyTheLogsAreLeft) {
  EXPECT_FALSE(none_left_for_data(31, 0, 3));
  EXPECT_FALSE(none_left_for_data(4, 0, 3)) << "small, but none is bad";
  EXPECT_FALSE(none_left_for_data(31, 26, 3)) << "5: the log's, 3 for it, and one";
  EXPECT_TRUE(none_left_for_data(31, 27, 3));
  EXPECT_TRUE(none_left_for_data(31, 31, 3));
}

}  // namespace
}  // namespace pcache
