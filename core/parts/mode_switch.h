// SPDX-License-Identifier: GPL-2.0-or-later
// ModeSwitch: the mode of an attached cache, which may change at any moment. Requests and
// background work ask it for each answer when they need it. Any thread.
//
// All writes go the same way in every mode, through the log, so a crash leaves the same in all of
// them, and a switch has nothing to convert.
#pragma once

#include <atomic>

#include "format/cache_mode.h"

namespace pcache {

class ModeSwitch {
 public:
  constexpr explicit ModeSwitch(CacheMode mode = CacheMode::kWriteback) : mode_(mode) {}

  CacheMode mode() const { return mode_.load(std::memory_order_relaxed); }
  const ModeAnswers& answers() const { return answers_of(mode()); }
  // What is read before the call, and what is stored after it, stay there: DeviceAcks says why.
  bool acks_on_device() const {
    return answers_of(mode_.load(std::memory_order_seq_cst)).acks_on_device;
  }
  void set(CacheMode mode) { mode_.store(mode, std::memory_order_seq_cst); }

 private:
  std::atomic<CacheMode> mode_;
};

// Of parts that are given none.
inline constinit const ModeSwitch kAlwaysWriteback;

}  // namespace pcache
