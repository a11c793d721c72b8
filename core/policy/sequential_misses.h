// SPDX-License-Identifier: GPL-2.0-or-later
// SequentialMisses: which of the misses of one queue belong to a long sequential run, such as a
// backup's. Whoever reads so reads well from a disk, and seldom twice.
//
// A miss goes on with a run when it begins where the run ends, or up to kSkippedBytes behind it:
// what lies between was cached, or another queue has read it. kRuns runs are remembered; a miss
// that goes on with none begins one, in place of the one that was longest not gone on with.
// The queue's thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "base/ids.h"

namespace pcache::policy {

class SequentialMisses {
 public:
  static constexpr size_t kRuns = 16;
  static constexpr uint64_t kSkippedBytes = 64 << 10;

  // The bytes that the run of this miss has missed, with it.
  uint64_t run_bytes(const Extent& miss) { return goes_on_with(miss).bytes; }
  struct Went {
    uint64_t bytes = 0;    // that its run has missed, with it
    uint64_t skipped = 0;  // between the run's end and it
  };
  Went goes_on_with(const Extent& miss) {
    const auto goes_on = [&miss](const Run& run) {
      return run.bytes > 0 && run.end <= miss.off && miss.off - run.end <= kSkippedBytes;
    };
    // In front is the one that was gone on with last.
    auto run = std::find_if(runs_.begin(), runs_.end(), goes_on);
    if (run == runs_.end()) *--run = {miss.off, 0};
    const uint64_t skipped = miss.off - run->end;
    run->bytes += miss.len;
    run->end = miss.end();
    std::rotate(runs_.begin(), run, run + 1);
    return {runs_.front().bytes, skipped};
  }

 private:
  struct Run {
    uint64_t end = 0, bytes = 0;
  };
  std::array<Run, kRuns> runs_{};
};

}  // namespace pcache::policy
