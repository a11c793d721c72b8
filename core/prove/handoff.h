// SPDX-License-Identifier: GPL-2.0-or-later
// Handoff: a second thread of which the first knows when it runs: one of the two at a time. So each
// of two processes that are simulated has a thread of its own, and their order is the test's.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace pcache {

class Handoff {
 public:
  Handoff() : thread_([this] { serve(); }) {}
  ~Handoff() {
    {
      std::lock_guard lock(mu_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Handoff(const Handoff&) = delete;
  Handoff& operator=(const Handoff&) = delete;

  // Runs `what` in the second thread, and meanwhile here what that one asks for. From one thread.
  // What is run throws nothing.
  void run(const std::function<void()>& what) {
    std::unique_lock lock(mu_);
    there_ = &what;
    changed_.notify_all();
    for (;;) {
      changed_.wait(lock, [this] { return !there_ || here_; });
      if (!here_) return;
      do_one(lock, &here_);
    }
  }
  // In run(): runs `what` in the first thread.
  void ask(const std::function<void()>& what) {
    std::unique_lock lock(mu_);
    here_ = &what;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !here_; });
  }

 private:
  using Work = const std::function<void()>*;
  void serve() {
    std::unique_lock lock(mu_);
    for (;;) {
      changed_.wait(lock, [this] { return there_ || over_; });
      if (!there_) return;
      do_one(lock, &there_);
    }
  }
  void do_one(std::unique_lock<std::mutex>& lock, Work* work) {
    const Work now = *work;
    lock.unlock();
    (*now)();
    lock.lock();
    *work = nullptr;
    changed_.notify_all();
  }

  std::mutex mu_;
  std::condition_variable changed_;
  Work there_ = nullptr, here_ = nullptr;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace pcache
