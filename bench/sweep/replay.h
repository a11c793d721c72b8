// SPDX-License-Identifier: GPL-2.0-or-later
// Replay: what a case has whose requests come from a trace: the trace, the sizes that follow from
// it, and what the cache's status says of the measurement.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "sweep/parameter.h"
#include "sweep/trace_layout.h"
#include "sweep/trace_model.h"

namespace pcache::sweep {

struct Spec;

inline constexpr const char* kNoTrace = "none";  // `trace:` of a case without one

struct Replay {
  std::shared_ptr<const TraceLayout> layout;
  uint64_t cache_bytes = 0;                     // of the cache device; 0: its engine has none
  std::optional<uint64_t> capacity_bytes = {};  // of data, as expected
  std::optional<TraceModel> model = {};         // at the capacity that was asked for
};

// Reads the traces of the spec's cases, each file once, and gives each case its own. Paths that are
// not absolute begin at `folder`. Throws Wrong.
void load_traces(Spec& spec, const std::string& folder);

// Of the traces of a spec, as run.json keeps them; null: it has none.
nlohmann::ordered_json facts_of_traces(const Spec& spec);
// Throws Wrong: a trace is not what it was when `run` began.
void need_same_traces(const Spec& spec, const nlohmann::ordered_json& run,
                      const std::string& folder);

// Of a measurement (schema: results/README.md). `status`: the cache's, as JSON; null: it is another
// engine's, which has none. Throws nlohmann's exceptions: it is no such status.
nlohmann::ordered_json replay_metrics(const Replay& replay, const nlohmann::json& status);

}  // namespace pcache::sweep
