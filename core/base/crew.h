// SPDX-License-Identifier: GPL-2.0-or-later
// Crew: threads that do pieces of work one after the other, each together with the caller.
//
// Invariants
// - One thread owns a crew: it calls begin() and finish(), in turn.
// - Tasks of one piece run at the same time, in any order; none runs after finish() has returned.
// - What the caller has done before begin() the tasks see; what they have done it sees after
//   finish().
// - The crew's threads block all signals but SIGBUS.
// Locks: the crew's is a leaf.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace pcache {

class Crew {
 public:
  using Task = std::function<void(size_t)>;

  // How many threads are of use: the CPUs that this process may use, 8 at most.
  static unsigned cpus();

  // With `helpers` threads beside the caller's; with fewer, or none, if they cannot be started.
  explicit Crew(unsigned helpers);
  // Drops what has not begun, and waits for what has.
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // The threads, with the caller's.
  size_t size() const { return threads_.size() + 1; }
  // Has task(0) to task(n - 1) called, each once, by any thread, from now on.
  void begin(size_t n, Task task) EXCLUDES(mu_);
  // Takes part, and returns when all have been. Throws what one of them has thrown, the first.
  // Without a begin() it does nothing.
  void finish() EXCLUDES(mu_) { finish(nullptr, {}); }
  // Calls `meanwhile` every `interval` while it waits for the others. What that throws comes first,
  // once all tasks have been.
  void finish(const std::function<void()>& meanwhile, std::chrono::milliseconds interval)
      EXCLUDES(mu_);

 private:
  void run() EXCLUDES(mu_);
  void work() REQUIRES(mu_);

  Mutex mu_;
  CondVar changed_;
  Task task_;  // constant while it is run
  size_t next_ GUARDED_BY(mu_) = 0, end_ GUARDED_BY(mu_) = 0, running_ GUARDED_BY(mu_) = 0;
  std::exception_ptr thrown_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace pcache
