// SPDX-License-Identifier: GPL-2.0-or-later
// pcache-sweep run: from its options to a folder of results.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sweep/host_name.h"
#include "sweep/place.h"

namespace pcache::sweep {

struct RunOptions {
  std::string spec, output, resume;  // a spec, or a folder to resume
  std::vector<std::string> builds;
  PlaceOptions place;
  HostOptions hosts;  // in place of the spec's
  std::optional<int64_t> repeats;
  std::optional<double> runtime_s;
  bool dry_run = false, plan = false, quiet = false;
  bool temporary = false;  // the folder goes when we have ended: nobody can resume it
};

// The exit status. Throws Wrong.
int run(const RunOptions& options);

}  // namespace pcache::sweep
