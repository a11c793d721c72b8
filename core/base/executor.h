// SPDX-License-Identifier: GPL-2.0-or-later
// Executor: where background work runs. The real one has a thread and the monotonic clock; the
// stepped one runs in the caller's thread on a clock that the test turns, so that no test sleeps.
//
// Invariants
// - Tasks of one executor never run at the same time as each other.
// - After stop() returns no task runs any more. stop() is idempotent and not called from a task.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace pcache {

class Executor {
 public:
  using Task = std::function<void()>;
  using Id = size_t;
  virtual ~Executor() = default;
  // Runs `task` every `interval` from now on. Any thread.
  virtual Id every(std::chrono::milliseconds interval, Task task) = 0;
  // Runs it once more as soon as can be. Any thread; cheap when it is due already.
  virtual void wake(Id id) = 0;
  virtual void stop() = 0;
};

class ThreadExecutor : public Executor {
 public:
  ThreadExecutor();
  ~ThreadExecutor() override;
  Id every(std::chrono::milliseconds interval, Task task) override EXCLUDES(mu_);
  void wake(Id id) override EXCLUDES(mu_);
  void stop() override EXCLUDES(mu_);

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    std::chrono::milliseconds interval;
    Clock::time_point due;
    std::shared_ptr<Task> task;
  };
  void run() EXCLUDES(mu_);

  Mutex mu_;
  CondVar changed_;
  std::vector<Entry> entries_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  std::thread thread_;
};

// One thread only.
class SteppedExecutor : public Executor {
 public:
  Id every(std::chrono::milliseconds interval, Task task) override;
  void wake(Id id) override { entries_[id].due_ms = now_ms_; }
  void stop() override { entries_.clear(); }
  // Turns the clock, running what falls due in order of time.
  void advance(std::chrono::milliseconds by);

 private:
  struct Entry {
    int64_t interval_ms;
    int64_t due_ms;
    std::shared_ptr<Task> task;  // it may add tasks while it runs
  };
  std::vector<Entry> entries_;
  int64_t now_ms_ = 0;
};

}  // namespace pcache
