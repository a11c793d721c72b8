// SPDX-License-Identifier: GPL-2.0-or-later
#include "micro/instructions.h"

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pcache::micro {

Instructions::Instructions() {
  perf_event_attr wanted{};
  wanted.type = PERF_TYPE_HARDWARE;
  wanted.size = sizeof wanted;
  wanted.config = PERF_COUNT_HW_INSTRUCTIONS;
  wanted.exclude_kernel = 1;
  wanted.exclude_hv = 1;
  fd_ = static_cast<int>(syscall(SYS_perf_event_open, &wanted, 0, -1, -1, 0));
}

Instructions::~Instructions() {
  if (fd_ >= 0) close(fd_);
}

uint64_t Instructions::read() const {
  uint64_t value = 0;
  return fd_ >= 0 && ::read(fd_, &value, sizeof value) == sizeof value ? value : 0;
}

void Instructions::report(benchmark::State& state) {
  const uint64_t value = read();
  if (value > 0)
    state.counters["instructions"] =
        benchmark::Counter(static_cast<double>(value), benchmark::Counter::kAvgIterations);
}

}  // namespace pcache::micro
