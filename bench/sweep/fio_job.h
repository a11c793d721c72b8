// SPDX-License-Identifier: GPL-2.0-or-later
// A case as a fio job, and what fio says of it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sweep/build.h"
#include "sweep/place.h"
#include "sweep/plan.h"

namespace pcache::sweep {

struct FioJob {
  std::string fill;     // a run of its own before it, for a clean cache; empty: none
  std::string measure;  // the job file
};

// `series`: where fio's logs of requests per interval and the cache's status go, as a prefix, from
// where fio stands; empty: nowhere. Every path in it is one that need_whole() has let through.
FioJob make_job(const Spec& spec, const Case& one, const Place& place, const Build& build,
                uint32_t repeat, const std::string& series);
// The same of a case with a trace: `iolog` is the file with TraceLayout::iolog(), from where fio
// stands.
FioJob make_replay_job(const Case& one, const Place& place, const Build& build, uint32_t repeat,
                       const std::string& series, const std::string& iolog);

// 0: it has no cache.
uint64_t cache_bytes_of(const Case& one);
// What its backing device needs.
uint64_t device_bytes_of(const Case& one);
uint64_t working_set_bytes_of(const Case& one);
// What each of its threads reads and writes; 0: not one request.
uint64_t range_bytes_of(const Case& one);
// Of engine path:/DEVICE; empty: of another engine.
std::string path_of(const Case& one);

// The figures of the measurement in fio's JSON (schema: results/README.md). Throws Wrong when it is
// none, or when fio's clock is too coarse for it; that does not matter to a trace.
nlohmann::ordered_json metrics_of(const Case& one, double runtime_s, const nlohmann::json& fio);

// fio's logs, of all jobs, as CSV: ms,read_iops,write_iops. Empty: there are none.
std::string series_of(const std::string& prefix);

}  // namespace pcache::sweep
