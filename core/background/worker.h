// SPDX-License-Identifier: GPL-2.0-or-later
// Worker: when background work is done. Closing old ksets and making room (reclaim, and letting
// waiting requests go on) run on one executor; writing back, which waits for the backing device, on
// another.
//
// Who wakes whom: a segment taken, or a request that waits -> reclaim; reclaim that has come to
// dirty_tail -> writeback; writeback that has moved dirty_tail -> reclaim; a segment freed, while
// requests wait -> reclaim, which lets them go on. Nobody polls, and nobody waits for a tick:
// hazards nobody-wakes, freed-space-wakes-nobody.
//
// Before the cache is full, while only `low_segments` are left for data, writes are paced (see
// Pace): writeback grants them credit as it goes along. Pace is on only while writeback has
// something to do.
//
// Reclaim works while gc_percent of the segments (gc_threshold()) are in use, while space is low,
// and while requests wait. Writeback is woken when both that many and half of them are in use,
// while space is low, and while requests wait; otherwise it works in its interval.
//
// A failing backing device: what could not be written stays dirty and is tried again after 100 ms,
// twice as long each time that nothing could, 10 s at most; no wake shortens that (hazard
// retry-without-delay). Writeback that finds no memory waits in the same way; reclaim that finds
// none is tried again every 100 ms.
//
// Threads: as said at each function. After stop() nothing runs.
#pragma once

#include "background/reclaim.h"
#include "background/writeback.h"
#include "base/executor.h"

namespace pcache {

class Worker {
 public:
  using Milliseconds = Executor::Milliseconds;
  static constexpr Milliseconds kFirstBackoff{100}, kLongestBackoff{10000};
  // The larger a batch, the better it sorts and merges; but its space comes free only at its end.
  // So they are small (Writeback's own size) when space is short, larger when there is time.
  static constexpr uint64_t kDrainBatchBytes = uint64_t{1} << 30;
  static constexpr uint32_t kStepsInARow = 16;  // of reclaim, before another task has its turn
  // Of a drain, while the device fails: so many that write nothing end it.
  static constexpr uint32_t kVainSteps = 3;

  struct Options {
    Milliseconds flush_delay{1000};
    Milliseconds writeback_interval{5000};
    uint32_t gc_percent = media::kGcPercentDefault;
    // The requests' side: whether some wait for space, and letting them go on.
    std::function<bool()> requests_wait;
    std::function<void()> retry_requests;
    // They wait for what can never be: they fail with this errno.
    std::function<void(int)> fail_requests;
    // Whether requests are to be let in at the pace of writeback.
    std::function<void(bool)> set_pace;
    uint64_t idle_batch_bytes = 64 << 20;
    uint32_t low_segments = 2;  // free for data: from here on they are
  };
  // `main` and `writing` may be the same.
  Worker(const BackgroundParts& parts, Writeback& writeback, Reclaim& reclaim, Executor& main,
         Executor& writing, const Options& options);

  // Takes what memory the tasks need; they do nothing yet.
  void prepare();
  // After prepare(), or alone. Throws nothing then.
  void start();
  // One thread, not an executor's.
  void stop();

  // Any thread.
  void space_taken();
  void space_freed();
  void request_waits();
  void set_gc_percent(uint32_t percent);
  uint32_t gc_percent() const { return gc_percent_.load(std::memory_order_relaxed); }

  // Writes everything back that was complete when it was called, and moves dirty_tail past it, in
  // the caller's thread. EIO and the like as the device says, once nothing more can be written,
  // with what is left; EIO when damaged data is left behind.
  Status drain();
  // For the end, without executors: makes room for the log until `done` says so, or nothing more
  // can be done.
  void make_room(const std::function<bool()>& done);

  struct State {
    bool failing = false;
    std::string last_error;  // also of what has healed
    Milliseconds backoff{0};
  };
  State state() const EXCLUDES(state_mu_);
  // What keeps reclaim from going on, as a literal; nullptr: nothing.
  const char* reclaim_fault() const { return reclaim_fault_.load(std::memory_order_relaxed); }

 private:
  bool above(uint32_t percent) const;
  bool low(uint32_t segments) const;  // no more than that are free for data
  bool room_is_needed() const;
  bool pressure() const;
  void close_old();
  bool unwritten() const;
  void make_room_task();
  void ask_for_writeback();
  void note_reclaim_failed(const Error& error);
  void writeback_task();
  void wake(Executor& executor, Executor::Id id) {
    if (!stopping_.load(std::memory_order_acquire)) executor.wake(id);
  }
  void note_failure(const Error& error) EXCLUDES(state_mu_);
  void note_success() EXCLUDES(state_mu_);
  Error undrained(const Error& why, const LogMark& until) const;

  const BackgroundParts& parts_;
  Writeback& writeback_;
  Reclaim& reclaim_;
  Executor& main_;
  Executor& writing_;
  const Options options_;
  std::atomic<uint32_t> gc_percent_;
  std::atomic<bool> stopping_{true};
  bool prepared_ = false;
  Executor::Id room_id_ = 0, writeback_id_ = 0;
  bool close_failed_ = false;                        // main's task only
  std::atomic<const char*> reclaim_fault_{nullptr};  // set by main's task only
  Milliseconds retry_at_{0};                         // writing's task only; 0: the device works
  uint64_t written_at_failure_ = 0;                  // likewise

  std::atomic<bool> failing_{false};
  mutable Mutex state_mu_;
  State state_ GUARDED_BY(state_mu_);
};

}  // namespace pcache
