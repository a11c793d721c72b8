// SPDX-License-Identifier: GPL-2.0-or-later
// RecordedCrashes: replays a Recording through a cache and takes crash states of it, recovered.
//
// The cache begins as it is after long use: its log is near the end of a segment, and so few
// segments are free that reclaim has begun. The upper part of the device, where the recording has
// nothing, is written between its requests, so segments come free and are used again. The clock
// goes on with each request, so there is writeback and reclaim all the time. At the first mark
// everything is written back: from there on the backing device alone has a file system, too.
//
// Every state is one after the first mark. Half of the points are before fences and flushes of
// background work, a quarter before those of requests, and a quarter right behind marks, where what
// has just been acknowledged is promised. Of each point the state in which everything pending is
// lost, and some others, chosen at random.
#pragma once

#include <functional>
#include <random>

#include "format/media.h"
#include "prove/recording.h"
#include "prove/session.h"

namespace pcache {

// Of the device the recording has this much; what is behind it is written by the replay.
inline constexpr uint64_t kRecordedBytes = 8 << 20;

class RecordedCrashes {
 public:
  struct Options {
    uint64_t seed = 1;
    bool strict = true;  // the option backing_order
    bool data_crc = false;
    bool fua = false;  // as on a device that has FUA: loop devices have not
    // Small: what is written back soon leaves the cache, and is read from the device.
    uint32_t gc_percent = media::kGcPercentDefault;
    size_t points = 30;  // of crashes
  };
  struct State {
    size_t number = 0;        // from 0 on
    size_t marks = 0;         // of the recording, that were reached
    bool background = false;  // it crashed in background work
    size_t event = 0;         // of the trace
    uint64_t state = 0;       // of the point
    // Not empty: it cannot be attached or read, and there is no `content`.
    std::string failed;
    std::vector<std::byte> content;  // of the recording's part of the logical device
    std::vector<std::byte> device;   // of the same part of the backing device alone
  };
  // What happened while the recording was replayed.
  struct Counts {
    uint64_t events = 0;        // of both media
    uint64_t written_back = 0;  // bytes, to the backing device
    uint64_t superseded = 0;    // bytes, that were passed instead
    uint64_t reclaimed_ksets = 0;
    uint64_t freed_segments = 0;  // of data, so that others could use them
    uint64_t log_segments = 0;    // that the log has left behind
  };
  using Visit = std::function<void(const State&)>;

  RecordedCrashes(const Recording& recording, const Options& options);
  // Throws Failure (judge.h): without any crash something is not as it was written.
  void replay();
  // After replay(), once. `wanted`: whether the state of this number is recovered at all.
  void visit(const std::function<bool(size_t number)>& wanted, const Visit& visit);
  const Counts& counts() const { return counts_; }

 private:
  struct Range {
    size_t begin, end;  // events
  };
  std::unique_ptr<Session> attach(const Sectors& device, Trace* trace);
  void grow_old();
  void do_request(Session& session, const Recording::Request& request);
  void write_beside(Session& session);
  void pass_time(Session& session);
  void compare(Session& session, const Extent& extent);
  bool in_background(size_t event) const;
  std::vector<size_t> choose_points();
  void recover(const Sectors& device, State* state);

  const Recording& recording_;
  const Options options_;
  std::mt19937_64 random_;
  PmemSim pmem_;
  Sectors device_;                                    // when the trace begins
  std::vector<std::vector<std::byte>> device_bytes_;  // what it points to
  UndoMemory::Mark begun_ = 0;                        // where the trace begins
  Trace trace_;
  std::vector<std::byte> model_;  // of the recording's part, without a cache
  std::vector<size_t> marks_;     // the first event behind each
  std::vector<Range> background_;
  VersionId beside_ = 0;
  Counts counts_;
};

}  // namespace pcache
