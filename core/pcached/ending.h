// SPDX-License-Identifier: GPL-2.0-or-later
// Ending: what ends a BackendLoop: SIGINT, SIGTERM, and with --until-eof the standard input.
//
// The signals are blocked, and a thread waits for them, which ends with the process. Not the one
// that is ignored, as a shell has SIGINT of a job in the background: a signal that is blocked comes
// all the same.
//
// The standard input is for who has started pcached for a front. A line "end" there ends the loop
// at once. Its end does, too, once all that the log has is written back, or the disk fails: nobody
// may be there any more who would care. So a front that is killed leaves no pcached for ever.
#pragma once

#include <chrono>
#include <mutex>

#include "backend/loop.h"

namespace pcache {

class Ending {
 public:
  // Before any other thread begins, which would take the signals. It is never destroyed: its
  // threads outlive main().
  Ending();
  // From now on the input counts. So long a loop that ends with it may go on without progress.
  void watch_input(std::chrono::seconds patience);

  // It ends then. An error: what was to be written back before that is not.
  Status run(BackendLoop& loop);
  // As SIGTERM. Any thread.
  void end();

  enum class Input : uint8_t { kNone, kOpen, kEnded };
  // As it is at this moment: kEnded from the death of who has the other end on. Any thread.
  Input input() const;

 private:
  class Watched;
  // nullptr: it is gone.
  void watch(BackendLoop* loop);
  void finish();
  void read_input(std::chrono::seconds patience);
  bool has_loop();
  uint64_t progress();  // what the loop has done since it began; 0: there is none

  std::mutex mu_;
  BackendLoop* loop_ = nullptr;
  bool begun_ = false, finishing_ = false;
  std::atomic<bool> has_input_{false}, input_ended_{false};
};

}  // namespace pcache
