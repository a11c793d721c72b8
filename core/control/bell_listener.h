// SPDX-License-Identifier: GPL-2.0-or-later
// BellListener: the thread of a front that listens to its doorbell, says that the front is there,
// and keeps the doorbell's file (see BellFile). Without it the front looks at intervals.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "control/bell_file.h"

namespace pcache {

class BellListener {
 public:
  struct Events {
    std::function<void()> rung;
    std::function<void()> beats;  // before each beat: to say what the status shows
  };
  // EAGAIN and the like: no thread can be started. An error of the file: it is not there, and
  // nobody listens. The events are called by the thread alone.
  static Result<std::unique_ptr<BellListener>> start(const std::string& cache_path, Doorbell& bell,
                                                     Events events);
  // One thread, not the listener's. The other side hears that this one is gone.
  ~BellListener();

 private:
  BellListener(const std::string& cache_path, Doorbell& bell, Events events)
      : bell_(bell),
        file_(cache_path, bell),
        events_(std::move(events)),
        heard_(bell.rings_heard()) {}
  void run();

  Doorbell& bell_;
  BellFile file_;
  const Events events_;
  uint32_t heard_;  // run() alone; as of before anybody could ring
  std::atomic<bool> stopping_{false};
  std::thread thread_;  // last: it uses all of the above
};

// Of the wall clock; 1 at least.
Doorbell::Milliseconds beat_now();

}  // namespace pcache
