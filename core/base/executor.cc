// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/executor.h"

#include <signal.h>

#include <algorithm>
#include <new>

#include "base/no_thread.h"

namespace pcache {

namespace {

// After this time a task that found no memory runs again.
constexpr std::chrono::milliseconds kShortOfMemory{100};

// A thread inherits the signal mask of its maker. Where SIGBUS is blocked a bad page of pmem does
// not reach the handler: the kernel ends the process.
void unblock_sigbus() {
  sigset_t sigbus;
  sigemptyset(&sigbus);
  sigaddset(&sigbus, SIGBUS);
  pthread_sigmask(SIG_UNBLOCK, &sigbus, nullptr);
}

}  // namespace

Result<std::unique_ptr<Executor>> ThreadExecutor::create() {
  try {
    return std::unique_ptr<Executor>(std::make_unique<ThreadExecutor>());
  } catch (const std::system_error& e) {
    return no_thread(e, "background work");
  }
}

ThreadExecutor::ThreadExecutor() : thread_([this] { run(); }) {}

ThreadExecutor::~ThreadExecutor() { stop(); }

Executor::Id ThreadExecutor::every(Milliseconds interval, Task task) {
  MutexLock lock(mu_);
  entries_.push_back({interval, Clock::now() + interval, std::make_shared<Task>(std::move(task))});
  changed_.notify_one();
  return entries_.size() - 1;
}

void ThreadExecutor::wake(Id id, Milliseconds delay) {
  MutexLock lock(mu_);
  const auto due = Clock::now() + delay;
  if (stopping_ || entries_[id].due <= due) return;
  entries_[id].due = due;
  changed_.notify_one();
}

void ThreadExecutor::set_interval(Id id, Milliseconds interval) {
  MutexLock lock(mu_);
  entries_[id].interval = interval;
  entries_[id].due = std::min(entries_[id].due, Clock::now() + interval);
  changed_.notify_one();
}

Executor::Milliseconds ThreadExecutor::now() const {
  return std::chrono::duration_cast<Milliseconds>(Clock::now().time_since_epoch());
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
  unblock_sigbus();
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
    const size_t id = static_cast<size_t>(next - entries_.begin());
    mu_.unlock();
    bool done = true;
    try {
      (*task)();
    } catch (const std::bad_alloc&) {
      done = false;
    }
    mu_.lock();
    if (!done) entries_[id].due = std::min(entries_[id].due, Clock::now() + kShortOfMemory);
  }
  mu_.unlock();
}

Executor::Id SteppedExecutor::every(Milliseconds interval, Task task) {
  entries_.push_back(
      {interval.count(), now_ms_ + interval.count(), std::make_shared<Task>(std::move(task))});
  return entries_.size() - 1;
}

void SteppedExecutor::wake(Id id, Milliseconds delay) {
  if (id >= entries_.size()) return;  // stopped
  entries_[id].due_ms = std::min(entries_[id].due_ms, now_ms_ + delay.count());
}

void SteppedExecutor::set_interval(Id id, Milliseconds interval) {
  if (id >= entries_.size()) return;  // stopped
  entries_[id].interval_ms = interval.count();
  entries_[id].due_ms = std::min(entries_[id].due_ms, now_ms_ + interval.count());
}

void SteppedExecutor::advance(Milliseconds by) {
  const int64_t until = now_ms_ + by.count();
  for (;;) {
    auto next =
        std::min_element(entries_.begin(), entries_.end(),
                         [](const Entry& a, const Entry& b) { return a.due_ms < b.due_ms; });
    if (next == entries_.end() || next->due_ms > until) break;
    now_ms_ = std::max(now_ms_, next->due_ms);
    next->due_ms = now_ms_ + next->interval_ms;
    const auto task = next->task;
    const size_t id = static_cast<size_t>(next - entries_.begin());
    try {
      (*task)();
    } catch (const std::bad_alloc&) {
      wake(id, kShortOfMemory);
    }
  }
  now_ms_ = until;
}

}  // namespace pcache
