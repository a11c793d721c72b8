// SPDX-License-Identifier: GPL-2.0-or-later
// BackendLoop: when a backend writes back.
//
// A front says by the doorbell whether the time has come, for the same reasons as a process that
// does it all decides by: want of space, too much dirty data, a writer that waits for the disk, or
// that there is time. What is left until then is superseded in part, and costs the disk less. Where
// no front is there, or none that is heard, all is written back at once.
//
// - A front that wants something rings, and is rung when dirty_tail has moved. Should a ring be
//   lost each looks all the same, at intervals. Nothing that stands in the doorbell's page keeps
//   data from being written back once the front is gone: a lock of the cache device tells that, and
//   is looked at with each beat, however long the interval.
// - What the front says is not needed (Backend::pass()) is passed whether it wants something or
// not,
//   and while the disk fails. Then the front looks first: what it has wanted until now may be
//   passed next, and a disk that writes it meanwhile would be behind for ever.
// - Of a disk that fails all is tried again, for as long as it takes.
// run() is called by one thread; all else by any.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <string>

#include "backend/backend.h"
#include "background/doorbell.h"
#include "base/mutex.h"

namespace pcache {

class BackendLoop {
 public:
  using Milliseconds = std::chrono::milliseconds;
  struct Options {
    bool once = false;             // ends when all that the log has is written back
    Milliseconds interval{100};    // it looks at least so often for what the front wants
    Milliseconds front_looks{20};  // so long a front is given to look at what was passed
    std::function<void()> beats;   // about each second, in run(): the doorbell's file is kept
    std::function<bool()> front_is_there = nullptr;  // nullptr: as the backend says; tests only
    std::function<void(const std::string&)> say;     // a line for the user
  };
  BackendLoop(Backend& backend, Doorbell& bell, Options options);

  // Until stop(), or finish() and all is done. An error: with `once` it could not be.
  Status run() EXCLUDES(mu_);
  // run() ends soon, also in the middle of a step.
  void stop();
  bool stopping() const { return stopping_.load(); }
  // From now on it is as with Options::once: nobody is there who would start it again.
  void finish();
  bool finishing() const { return once_.load(); }

  enum class Doing : uint8_t { kWriting, kNothingDirty, kNotWanted, kRetrying };
  struct State {
    Doing doing = Doing::kWriting;
    std::string error;                            // of kRetrying
    std::chrono::system_clock::time_point since;  // it is doing that
    Backend::Counters counters;
    bool front_is_there = false;
    std::chrono::system_clock::time_point front_changed;  // when it came or went; or was started
  };
  State state() const EXCLUDES(mu_);
  static const char* text_of(Doing doing);

 private:
  void beat_if_due();
  // The front is heard, and there is time.
  bool is_not_wanted() const;
  bool front_is_there() const {
    return options_.front_is_there ? options_.front_is_there() : backend_.front_is_there();
  }
  void look_at_front() EXCLUDES(mu_);
  void note(Doing doing, const std::string& error = "") EXCLUDES(mu_);
  void note_counters() EXCLUDES(mu_);
  // For `most`, or until it is told to end or rung; kWanted: or is_not_wanted() no more.
  enum class Until : uint8_t { kRung, kWanted };
  void rest(Milliseconds most, Until end, uint32_t heard);
  void wait_for_front();
  void let_front_look();
  void back_off(Milliseconds most);
  bool pass();

  Backend& backend_;
  Doorbell& bell_;
  const Options options_;
  std::atomic<bool> stopping_{false}, once_;
  std::chrono::steady_clock::time_point beats_at_{};
  mutable Mutex mu_;
  State state_ GUARDED_BY(mu_);
};

}  // namespace pcache
