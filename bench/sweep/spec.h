// SPDX-License-Identifier: GPL-2.0-or-later
// Spec: what a sweep measures, from a YAML file (configs/README.md). Throws Wrong, which names the
// file and the line.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "sweep/parameter.h"
#include "sweep/replay.h"

namespace pcache::sweep {

struct Case {
  std::string id;  // of the values that differ within the sweep; unique in it
  Values values;
  std::string left_out = {};  // why this machine cannot measure it; empty: it can
  std::shared_ptr<const Replay> replay = nullptr;  // of a case with a trace, behind load_traces()
};

struct Spec {
  std::string name, title;
  double runtime_s = 0;  // of each measurement; 0: all are of traces
  double warmup_s = 0;   // before it, not counted
  uint32_t repeats = 0;  // of each case
  uint64_t seed = 1;     // of the order
  std::vector<Case> cases;
  std::vector<std::string> axes;   // parameters with several values, in the order of the file
  std::vector<std::string> hosts;  // to measure; none: this machine
  std::string server;              // the command that starts a server on one; empty: they run
  std::string text;                // the file
  std::string folder;              // where paths of traces begin; set by load_traces()

  size_t left_out() const {  // cases
    return static_cast<size_t>(
        std::ranges::count_if(cases, [](const Case& one) { return !one.left_out.empty(); }));
  }
};

Spec parse_spec(const std::string& text, const std::string& file);

}  // namespace pcache::sweep
