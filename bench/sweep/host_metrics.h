// SPDX-License-Identifier: GPL-2.0-or-later
// What several hosts did at once, as the metrics of one measurement.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace pcache::sweep {

// (host, its metrics as metrics_of() gives them); at least one.
using HostMetrics = std::vector<std::pair<std::string, nlohmann::ordered_json>>;

// Their sum (schema: results/README.md), with each host's own in `hosts`. Rates add up, of whatever
// time each took. A percentile of all requests is not known from the hosts' own: here is the
// slowest host's, which is at least as long.
nlohmann::ordered_json sum_of(const HostMetrics& hosts);

}  // namespace pcache::sweep
