// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/crew.h"

#include <sched.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "base/check.h"
#include "base/signals_blocked.h"

namespace pcache {

unsigned Crew::cpus() {
  constexpr int kMost = 8;  // memory is the limit then
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;  // more CPUs than the set has
  return static_cast<unsigned>(std::clamp(CPU_COUNT(&set), 1, kMost));
}

Crew::Crew(unsigned helpers) {
  const SignalsBlocked blocked;
  try {
    threads_.reserve(helpers);
    while (threads_.size() < helpers) threads_.emplace_back([this] { run(); });
  } catch (const std::exception&) {
    // Without threads, or without memory for them, the work takes longer.
  }
}

Crew::~Crew() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    end_ = next_;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void Crew::begin(size_t n, Task task) {
  MutexLock lock(mu_);
  PCACHE_CHECK(next_ == end_ && running_ == 0);
  task_ = std::move(task);
  next_ = 0;
  end_ = n;
  changed_.notify_all();
}

void Crew::finish(const std::function<void()>& meanwhile, std::chrono::milliseconds interval) {
  MutexLock lock(mu_);
  work();
  std::exception_ptr by_caller;
  while (running_ > 0) {
    if (!meanwhile || by_caller) {
      changed_.wait(mu_);
      continue;
    }
    changed_.wait_for(mu_, interval);
    if (running_ == 0) break;
    mu_.unlock();
    try {
      meanwhile();
    } catch (...) {
      by_caller = std::current_exception();
    }
    mu_.lock();
  }
  if (by_caller) {
    thrown_ = nullptr;
    std::rethrow_exception(by_caller);
  }
  if (std::exception_ptr thrown = std::exchange(thrown_, nullptr)) std::rethrow_exception(thrown);
}

void Crew::run() {
  MutexLock lock(mu_);
  while (!stopping_) {
    work();
    if (!stopping_ && next_ == end_) changed_.wait(mu_);
  }
}

void Crew::work() {
  while (next_ != end_) {
    const size_t mine = next_++;
    running_++;
    mu_.unlock();
    std::exception_ptr thrown;
    try {
      task_(mine);
    } catch (...) {
      thrown = std::current_exception();
    }
    mu_.lock();
    running_--;
    if (thrown && !thrown_) thrown_ = thrown;
    if (thrown) end_ = next_;
    if (next_ == end_ && running_ == 0) changed_.notify_all();
  }
}

}  // namespace pcache
