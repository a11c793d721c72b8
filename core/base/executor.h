// SPDX-License-Identifier: GPL-2.0-or-later
// Executor: where background work runs. The real one has a thread and the monotonic clock; the
// stepped one runs in the caller's thread on a clock that the test turns, so that no test sleeps.
//
// Invariants
// - Tasks of one executor never run at the same time as each other.
// - After stop() returns no task runs any more, and wake() does nothing. stop() is idempotent. A
//   task must not call it.
// - A wake is never lost: one that comes while its task runs makes it run once more.
// - A task that ends by std::bad_alloc is run again after 100 ms.
// - The thread of the real one has the signal mask of its maker, but never blocks SIGBUS.
// Locks: the executor's is a leaf, so wake() may be called with any other held.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"

namespace pcache {

class Executor {
 public:
  using Task = std::function<void()>;
  using Id = size_t;
  using Milliseconds = std::chrono::milliseconds;
  virtual ~Executor() = default;
  // Runs `task` every `interval` from now on. Any thread.
  virtual Id every(Milliseconds interval, Task task) = 0;
  // Runs the task `delay` from now, or earlier if it is due earlier. Any thread; cheap if it is due
  // already.
  virtual void wake(Id id, Milliseconds delay) = 0;
  void wake(Id id) { wake(id, Milliseconds{0}); }
  // The task runs every `interval` from now on, or earlier if it is due earlier. Any thread.
  virtual void set_interval(Id id, Milliseconds interval) = 0;
  // A clock that only goes forward; its zero means nothing.
  virtual Milliseconds now() const = 0;
  virtual void stop() = 0;
};

class ThreadExecutor : public Executor {
 public:
  // EAGAIN and the like: no thread can be started.
  static Result<std::unique_ptr<Executor>> create();
  // As create(), but throws std::system_error.
  ThreadExecutor();
  ~ThreadExecutor() override;
  Id every(Milliseconds interval, Task task) override EXCLUDES(mu_);
  using Executor::wake;
  void wake(Id id, Milliseconds delay) override EXCLUDES(mu_);
  void set_interval(Id id, Milliseconds interval) override EXCLUDES(mu_);
  Milliseconds now() const override;
  void stop() override EXCLUDES(mu_);

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    Milliseconds interval;
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
  Id every(Milliseconds interval, Task task) override;
  using Executor::wake;
  void wake(Id id, Milliseconds delay) override;
  void set_interval(Id id, Milliseconds interval) override;
  Milliseconds now() const override { return Milliseconds{now_ms_}; }
  void stop() override { entries_.clear(); }
  // Turns the clock on and runs what becomes due, in order of time. By 0: runs what is due now.
  void advance(Milliseconds by);

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
