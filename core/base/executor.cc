// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/executor.h"

#include <algorithm>

namespace pcache {

ThreadExecutor::ThreadExecutor() : thread_([this] { run(); }) {}

ThreadExecutor::~ThreadExecutor() { stop(); }

Executor::Id ThreadExecutor::every(std::chrono::milliseconds interval, Task task) {
  MutexLock lock(mu_);
  entries_.push_back({interval, Clock::now() + interval, std::make_shared<Task>(std::move(task))});
  changed_.notify_one();
  return entries_.size() - 1;
}

void ThreadExecutor::wake(Id id) {
  MutexLock lock(mu_);
  const auto now = Clock::now();
  if (entries_[id].due <= now) return;
  entries_[id].due = now;
  changed_.notify_one();
}

void ThreadExecutor::stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void ThreadExecutor::run() {
  mu_.lock();
  while (!stopping_) {
    auto next = std::min_element(entries_.begin(), entries_.end(),
                                 [](const Entry& a, const Entry& b) { return a.due < b.due; });
    if (next == entries_.end()) {
      changed_.wait(mu_);
      continue;
    }
    const auto now = Clock::now();
    if (next->due > now) {
      changed_.wait_for(mu_, next->due - now);
      continue;
    }
    next->due = now + next->interval;
    const auto task = next->task;
    mu_.unlock();
    (*task)();
    mu_.lock();
  }
  mu_.unlock();
}

Executor::Id SteppedExecutor::every(std::chrono::milliseconds interval, Task task) {
  entries_.push_back(
      {interval.count(), now_ms_ + interval.count(), std::make_shared<Task>(std::move(task))});
  return entries_.size() - 1;
}

void SteppedExecutor::advance(std::chrono::milliseconds by) {
  const int64_t until = now_ms_ + by.count();
  for (;;) {
    auto next =
        std::min_element(entries_.begin(), entries_.end(),
                         [](const Entry& a, const Entry& b) { return a.due_ms < b.due_ms; });
    if (next == entries_.end() || next->due_ms > until) break;
    now_ms_ = std::max(now_ms_, next->due_ms);
    next->due_ms = now_ms_ + next->interval_ms;
    const auto task = next->task;
    (*task)();
  }
  now_ms_ = until;
}

}  // namespace pcache
