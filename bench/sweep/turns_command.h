// SPDX-License-Identifier: GPL-2.0-or-later
// pcache-sweep turns: 4 KiB hits of two builds, in one process and one thread, in turns of a
// millisecond or less. What slows the machine down for longer than that slows both alike, so that
// some per cent are seen on a machine that others use, too. bench/measure/turns.py judges.
//
// On stdout, one JSON object:
//   builds  [of each: what its libraries say of themselves, "" where they say nothing]
//   cases   {name: [of each round: {ns: the time of a request of the first build, the median;
//                                   speed: of the second relative to it, the median of all turns}]}
// Each round has two halves: in the second each build has the file that the other one had. Given is
// their mean, of the speeds the geometric one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pcache::sweep {

struct TurnsOptions {
  std::vector<std::string> builds;                               // two directories
  std::string cache_dir = "/dev/shm", backing_dir = "/var/tmp";  // of the scratch files
  uint32_t rounds = 12;
  uint64_t seed = 0;  // each has other requests
};

// The exit status: 0, or 130: it was told to end. Throws Wrong.
int turns(const TurnsOptions& options);

}  // namespace pcache::sweep
