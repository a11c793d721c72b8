// SPDX-License-Identifier: GPL-2.0-or-later
// Instructions in user mode, by the CPU's counter, where the machine has one and lets us read it
// (virtual machines often do not: then pcache-sweep counts them under valgrind).
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>

namespace pcache::micro {

// Of the calling thread, from here on.
class Instructions {
 public:
  Instructions();
  ~Instructions();
  Instructions(const Instructions&) = delete;
  Instructions& operator=(const Instructions&) = delete;

  // Adds "instructions" per iteration to what the benchmark reports; nothing when nobody counts.
  void report(benchmark::State& state);

 private:
  uint64_t read() const;
  int fd_;
};

}  // namespace pcache::micro
