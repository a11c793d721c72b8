// SPDX-License-Identifier: GPL-2.0-or-later
// The status of attached caches as text that Prometheus and its like read.
// https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
// https://prometheus.io/docs/instrumenting/exposition_formats/ (text 0.0.4)
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "ctl/common.h"

namespace pcache::ctl {

// Of a latency of the status: upper ends in ns, and how many are in each bucket. What is no bucket
// is left out.
std::vector<std::pair<uint64_t, uint64_t>> buckets_of(const Json& latency);

// `cache` and `pid` (if not empty) are labels of all its samples: no two have the same.
struct CacheMetrics {
  std::string cache, pid;
  Json status;
};
enum class MetricsFormat { kOpenMetrics, kPrometheus };

// pcache_OBJECT_NAME of each number of the status, with _total if it is a counter; switches as 0
// and 1; texts are labels of pcache_info; latencies are histograms, in seconds, by powers of two.
// What a status has not, as one of another version, is left out.
std::string metrics_text(const std::vector<CacheMetrics>& caches, MetricsFormat format);

}  // namespace pcache::ctl
