// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/host_metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace pcache::sweep {

using nlohmann::ordered_json;

namespace {

using Parts = std::vector<const ordered_json*>;

double added(const Parts& parts, const char* name) {
  double sum = 0;
  for (const ordered_json* part : parts) sum += part->at(name).get<double>();
  return sum;
}

uint64_t counted(const Parts& parts, const char* name) {
  uint64_t sum = 0;
  for (const ordered_json* part : parts) sum += part->at(name).get<uint64_t>();
  return sum;
}

// Of the requests of all: `ios` of each part stand beside its `lat_ns`. Flushes have no stddev.
ordered_json latency_of(const Parts& parts) {
  const auto all = static_cast<double>(counted(parts, "ios"));
  double mean = 0, square = 0;
  for (const ordered_json* part : parts) {
    const ordered_json& lat = part->at("lat_ns");
    const double share = part->at("ios").get<double>() / all, its = lat.at("mean").get<double>();
    mean += share * its;
    square += share * (std::pow(lat.value("stddev", 0.0), 2) + its * its);
  }
  ordered_json sum = {{"mean", mean}};
  for (const auto& [name, first] : parts.front()->at("lat_ns").items()) {
    if (name == "stddev") sum[name] = std::sqrt(std::max(0.0, square - mean * mean));
    if (sum.contains(name)) continue;
    ordered_json worst = first;
    for (const ordered_json* part : parts) {
      const ordered_json& its = part->at("lat_ns").at(name);
      worst = name == "min" ? std::min(worst, its) : std::max(worst, its);
    }
    sum[name] = worst;
  }
  return sum;
}

// Those that all have, or nothing.
bool have_latency(const Parts& parts) {
  return std::ranges::all_of(parts, [](auto* part) { return part->contains("lat_ns"); });
}

// Of reads or of writes.
ordered_json direction_of(const Parts& parts) {
  ordered_json sum = {{"ios", counted(parts, "ios")}, {"bytes", counted(parts, "bytes")}};
  uint64_t runtime_ms = 0;
  for (const ordered_json* part : parts)
    runtime_ms = std::max(runtime_ms, part->at("runtime_ms").get<uint64_t>());
  sum["runtime_ms"] = runtime_ms;
  sum["iops"] = added(parts, "iops");
  sum["bytes_per_s"] = added(parts, "bytes_per_s");
  if (have_latency(parts)) sum["lat_ns"] = latency_of(parts);
  return sum;
}

ordered_json flushes_of(const Parts& parts) {
  ordered_json sum = {{"ios", counted(parts, "ios")}};
  if (have_latency(parts)) sum["lat_ns"] = latency_of(parts);
  return sum;
}

// The part of this name of each host that has it.
Parts parts_of(const Parts& hosts, const char* name) {
  Parts parts;
  for (const ordered_json* one : hosts)
    if (one->contains(name)) parts.push_back(&one->at(name));
  return parts;
}

}  // namespace

ordered_json sum_of(const HostMetrics& hosts) {
  ordered_json sum;
  Parts all;
  for (const auto& [host, metrics] : hosts) all.push_back(&metrics);
  for (const char* direction : {"read", "write"})
    if (const Parts parts = parts_of(all, direction); !parts.empty())
      sum[direction] = direction_of(parts);
  if (const Parts parts = parts_of(all, "flush"); !parts.empty()) sum["flush"] = flushes_of(parts);
  sum["iops"] = added(all, "iops");
  sum["bytes_per_s"] = added(all, "bytes_per_s");
  const auto number = static_cast<double>(all.size());
  sum["cpu_user_percent"] = added(all, "cpu_user_percent") / number;
  sum["cpu_system_percent"] = added(all, "cpu_system_percent") / number;
  sum["context_switches"] = counted(all, "context_switches");
  for (const auto& [host, metrics] : hosts) sum["hosts"][host] = metrics;
  return sum;
}

}  // namespace pcache::sweep
