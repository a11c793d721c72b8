// SPDX-License-Identifier: GPL-2.0-or-later
// SpaceWatch: tells a person when requests begin to wait for space in the cache, why, and when that
// has ended. A full cache must not look like one that is only slow.
//
// - A wait now and then gives no message: one comes only when requests have waited in each of
//   kBegin looks in a row, which are kLook apart. The waiting has ended after kEnd looks without a
//   wait.
// - Writes that wait for the device itself give one only when it takes nothing.
// - Messages are rare: at least kBetween looks pass from one beginning to the next.
// One thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/log.h"

namespace pcache {

class SpaceWatch {
 public:
  static constexpr std::chrono::milliseconds kLook{1000};
  static constexpr uint32_t kBegin = 3, kEnd = 5, kBetween = 60;
  static constexpr uint32_t kHung = 10;  // looks during which the device wrote nothing

  struct Sample {
    uint64_t waits = 0;          // requests that have waited, ever
    uint32_t waiting = 0;        // now
    uint32_t awaited = 0;        // writes that wait until the backing device has them, now
    uint64_t written_bytes = 0;  // to the backing device, ever
    uint64_t passed_bytes = 0;   // by dirty_tail, ever
    uint64_t dirty_bytes = 0;
    uint32_t free_segments = 0, segments = 0;
    bool failing = false;  // the backing device; with `error`
    std::string error = {};
  };

  SpaceWatch(const Log& messages, const std::string& device)
      : messages_(messages), device_(device) {}

  // Called every kLook.
  void look(const Sample& sample);
  // The cache is closed: ends a message that was begun.
  void close(const Sample& sample);

 private:
  void say_begin(const Sample& sample);
  void say_end(const Sample& sample);

  const Log& messages_;
  const std::string device_;
  Sample last_, before_;  // of the look before; of the one before they began to wait
  uint32_t busy_ = 0, quiet_ = 0, stalled_ = 0;  // looks in a row
  uint32_t looks_ = 0;                           // since they began to wait
  uint32_t since_said_ = kBetween;
  bool said_ = false;
};

}  // namespace pcache
