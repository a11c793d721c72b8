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
// What is done for space, and how much of it at a time, decide() says (segment/space_policy.h). The
// worker asks it at each event and does what it says. Two events do half of it: a segment taken may
// turn throttling on and not off, a segment freed may turn it off and not on. While writes are
// throttled writeback grants them credit as it goes along (see Pace); when writeback fails, or has
// nothing more to do, throttling is turned off.
//
// Writes that wait for the device (DeviceWaits) wake writeback, which closes their ksets; a device
// that fails fails them. In a mode in which they do, all that is dirty is written back at once.
//
// A failing backing device: what could not be written stays dirty and is tried again after 100 ms,
// twice as long each time that nothing could, 10 s at most; no wake shortens that (hazard
// retry-without-delay). It works again when it has been flushed. Writeback that finds no memory
// waits in the same way, until any step succeeds; reclaim that finds none is tried again every
// 100 ms.
//
// Where another process writes back (Parts::follows) a step only follows what that has passed. The
// worker tells it by the doorbell whether to write back, for the same reasons as it would itself,
// or to pass what need not be written,
// and is rung when dirty_tail has moved, while it waits for that; without the doorbell it looks
// each millisecond then.
//
// Threads: as said at each function. After stop() nothing runs.
#pragma once

#include "background/doorbell.h"
#include "background/reclaim.h"
#include "background/writeback.h"
#include "base/executor.h"

namespace pcache {

class Worker {
 public:
  using Milliseconds = Executor::Milliseconds;
  static constexpr Milliseconds kFirstBackoff{100}, kLongestBackoff{10000};
  // A drain ends after this many steps in a row that failed and wrote nothing.
  static constexpr uint32_t kVainSteps = 3;

  struct Options {
    Milliseconds flush_delay{1000};
    Milliseconds writeback_interval{5000};
    uint32_t gc_percent = media::kGcPercentDefault;
    DirtyLimits dirty_limits;
    // Of a cache of so many segments, which may become more.
    std::function<SpaceLimits(uint32_t segments)> limits = space_limits;
    // The requests' side: how many wait for space, and letting them go on.
    std::function<uint32_t()> waiting_requests;
    std::function<bool()> waits_for_writeback = nullptr;  // the first does; nullptr: it does not
    std::function<void()> retry_requests;
    // They wait for what can never be: they fail with this errno.
    std::function<void(int)> fail_requests;
    // Whether requests are to be let in at the pace of writeback.
    std::function<void(bool)> set_pace;
    DeviceWaits* waits = nullptr;  // as in Writeback::Options
    Doorbell* bell = nullptr;      // where another process writes back
  };
  // `main` and `writing` may be the same.
  Worker(const Parts& parts, Writeback& writeback, Reclaim& reclaim, Executor& main,
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
  void device_awaited();
  // Another process, which writes back, has rung: see Doorbell.
  void rung();
  // The mode of the cache has changed.
  void mode_changed();
  void set_gc_percent(uint32_t percent);
  uint32_t gc_percent() const { return gc_percent_.load(std::memory_order_relaxed); }
  void set_dirty_limits(const DirtyLimits& limits);
  // They hold for what is open, and dirty, already. After prepare().
  void set_flush_delay(Milliseconds delay);
  void set_writeback_interval(Milliseconds interval);
  Milliseconds flush_delay() const { return flush_delay_.load(std::memory_order_relaxed); }
  Milliseconds writeback_interval() const {
    return writeback_interval_.load(std::memory_order_relaxed);
  }
  DirtyLimits dirty_limits() const;
  // Dirty data is written back for them.
  bool cleaning() const { return cleaning_.load(std::memory_order_relaxed); }

  // Writes back what was complete at the call, in the caller's thread, and moves dirty_tail past
  // it. When the device takes no more, returns its errno and says how much is left. Returns EIO
  // when damaged data stays behind.
  // `given_up`: until that is so, ECANCELED.
  Status drain(const std::atomic<bool>* given_up = nullptr);
  // As Writeback::give_up(). Any thread.
  void give_up(bool on) { writeback_.give_up(on); }
  // One batch of writeback, with dirty data moved wherever it can be; for tests and simulators.
  Result<bool> move_step();
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
  // counts() takes no lock of the log, so it does not know whether writeback has anything left. It
  // assumes that it has.
  SpaceCounts counts() const;
  SpaceActions decided() const { return decided(counts()); }
  SpaceActions decided(const SpaceCounts& now) const {
    return decide(options_.limits(now.segments), now);
  }
  // The same, with what writeback and the log say. No lock of the log may be held.
  SpaceCounts counts_at_dirty_tail() const;
  Writeback::Size batch_for(const SpaceCounts& now) const;
  Reclaim::Keep keeping() const;
  // For good.
  bool reclaim_stands_still() const;
  void close_old();
  bool unwritten() const;
  void make_room_task();
  void ask_for_writeback();
  void note_reclaim_failed(const Error& error);
  // What waits for the device is passed only once its keys are in the log. `head`: of the log then.
  void close_awaited(LogMark* head);
  // Tells the other side whether to write back now. If so, its ring runs writeback_task() again.
  // And whether something was stated that it is to pass.
  void tell_other_side(bool wants, bool stated = false);
  void end_following(bool wants, bool stated = false);
  // After a step that has not moved dirty_tail. True: the other side was told something new.
  bool tell_or_end(const SpaceActions& actions, bool first, LogMark* head);
  // After a step that has found nothing left before `head`. True: others have come to wait.
  bool others_await(const LogMark& head);
  void writeback_tick();
  void writeback_task();
  // What the next step is to do, up to `until` if it says more than that there is time; nothing:
  // there is none to be made now.
  std::optional<SpaceActions> next_step();
  bool retries() const { return retry_at_.count() > 0; }
  // How long nothing more may be written.
  Milliseconds wait_for_rate(uint64_t bytes_per_second);
  void wake(Executor& executor, Executor::Id id) {
    if (!stopping_.load(std::memory_order_acquire)) executor.wake(id);
  }
  void note_failure(const Error& error) EXCLUDES(state_mu_);
  void note_success() EXCLUDES(state_mu_);
  Error undrained(const Error& why, const LogMark& until) const;

  const Parts& parts_;
  Writeback& writeback_;
  Reclaim& reclaim_;
  Executor& main_;
  Executor& writing_;
  const Options options_;
  std::atomic<uint32_t> gc_percent_;
  std::atomic<uint32_t> dirty_high_, dirty_low_;  // percent
  std::atomic<uint64_t> bytes_per_second_;
  std::atomic<bool> stopping_{true};
  bool prepared_ = false;
  Executor::Id room_id_ = 0, writeback_id_ = 0, tick_id_ = 0, close_id_ = 0;
  std::atomic<Milliseconds> flush_delay_, writeback_interval_;
  bool close_failed_ = false;                        // main's task only
  std::atomic<const char*> reclaim_fault_{nullptr};  // set by main's task only
  Milliseconds retry_at_{0};                         // writing's task only; 0: nothing failed
  bool device_failed_ = false;                       // likewise: it was not, or not only, memory
  uint64_t written_at_failure_ = 0;                  // likewise
  bool wanted_there_ = false;                        // likewise: the other side has been told so
  uint64_t stated_there_ = 0;                        // likewise, of Writeback::stated_ksets(),
  Milliseconds stated_at_{0};                        // and when
  // Of the last tick, in appended bytes; writing's tasks only.
  uint64_t dirty_at_tick_ = 0;
  // Found by the last tick after which few writes came: all before it is written back.
  LogMark idle_until_;
  // Written faster than DirtyLimits::bytes_per_second, as of then; writing's task only.
  uint64_t ahead_bytes_ = 0;
  Milliseconds ahead_at_{0};
  std::atomic<bool> cleaning_{false};  // set by writing's task only

  std::atomic<bool> failing_{false};
  mutable Mutex state_mu_;
  State state_ GUARDED_BY(state_mu_);
};

}  // namespace pcache
