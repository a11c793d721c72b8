// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/fio_job.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "sweep/fio_value.h"

namespace pcache::sweep {

namespace {

constexpr uint64_t kLeastWorkingSet = 1 << 20;
constexpr int kSeriesMs = 100;
// Of less, fio's clock alone is wrong by a tenth. Not more: before a cache of 1 GiB is full, fast
// memory takes some 50 ms.
constexpr uint64_t kLeastRuntimeMs = 10;
constexpr const char* kPercentiles = "50:90:95:99:99.9:99.99";

std::string ms(double seconds) { return std::to_string(std::llround(seconds * 1000)) + "ms"; }

// What the engine needs to know besides the pattern.
void add_engine(std::ostream& out, const Case& one, const Place& place, const Build& build,
                const std::string& series) {
  const Values& v = one.values;
  const std::string& engine = v.at("engine");
  if (engine == "pcache" || engine == "bound") {
    out << "ioengine=external:" << build.dir << "/lib/"
        << (engine == "pcache" ? "libpcache_fio.so" : "libpcache_raw.so") << "\n"
        << "filename=" << one_of_files(place.backing()) << "\n"
        << "cache_dev=" << place.cache() << "\n"
        << "emulate_pmem=" << place.emulated() << "\n"
        << "persist=" << v.at("persist") << "\n";
    // It would be on the hosts, where nobody fetches it.
    if (engine == "pcache" && !series.empty() && !place.on_hosts())
      out << "stats_file=" << series << ".status\n";
    if (engine == "pcache")
      out << "data_crc=" << v.at("data_crc") << "\ngc_percent=" << v.at("gc_percent") << "\n";
    // A build from before there were these options does what it does.
    if (engine == "pcache" && v.at("policy") != "adaptive")
      out << "policy=" << v.at("policy") << "\n";
    if (engine == "pcache" && v.at("backing_order") != "strict")
      out << "backing_order=" << v.at("backing_order") << "\n";
    if (v.contains("flush_delay_ms")) out << "flush_delay_ms=" << v.at("flush_delay_ms") << "\n";
    if (engine == "bound") out << "fence=" << v.at("fence") << "\n";
  } else if (engine == "libpmem") {
    out << "ioengine=libpmem\nfilename=" << one_of_files(place.cache()) << "\nthread=1\n";
  } else {
    out << "ioengine=io_uring\ndirect=1\nthread=1\nfilename="
        << one_of_files(engine == "uring" ? place.backing() : path_of(one)) << "\n";
  }
}

// What is asked of each request's latency.
void add_latency(std::ostream& out, const Case& one, const std::string& series) {
  if (one.values.at("latency") == "0") {
    out << "gtod_reduce=1\n";
    return;
  }
  out << "lat_percentiles=1\nclat_percentiles=0\npercentile_list=" << kPercentiles << "\n";
  if (!series.empty()) out << "write_iops_log=" << series << "\nlog_avg_msec=" << kSeriesMs << "\n";
}

void add_fill(std::ostream& out, const Case& one) {
  out << "[fill]\nrw=write\nbs=1m\niodepth=8\nsize=" << working_set_bytes_of(one) << "\n";
}

// Of its reads, or of its writes.
nlohmann::ordered_json figures_of(const nlohmann::json& d) {
  nlohmann::ordered_json figures = {{"ios", d.at("total_ios")},
                                    {"bytes", d.at("io_bytes")},
                                    {"runtime_ms", d.at("runtime")},
                                    {"iops", d.at("iops")},
                                    {"bytes_per_s", d.at("bw_bytes")}};
  if (!d.contains("lat_ns") || d.at("lat_ns").at("N") == 0) return figures;
  const auto& lat = d.at("lat_ns");
  figures["lat_ns"] = {{"mean", lat.at("mean")},
                       {"stddev", lat.at("stddev")},
                       {"min", lat.at("min")},
                       {"max", lat.at("max")}};
  if (!lat.contains("percentile")) return figures;
  for (const auto& [at, value] : lat.at("percentile").items()) {
    std::string name = at;  // "99.900000"
    name.erase(name.find_last_not_of('0') + 1);
    if (name.ends_with('.')) name.pop_back();
    figures["lat_ns"]["p" + name] = value;
  }
  return figures;
}

void need_enough(double iops, uint64_t runtime_ms) {
  if (iops == 0) throw Wrong("fio has done nothing within the runtime; make it longer");
  if (runtime_ms < kLeastRuntimeMs)
    throw Wrong("took " + std::to_string(runtime_ms) + " ms, expected " +
                std::to_string(kLeastRuntimeMs) +
                " or more, since fio counts whole milliseconds; give more volume");
}

// What is ended before its time (by a latency target, a steady state, or an error that fio does not
// report) would pass for a measurement of all of it.
void need_all_of_its_time(const Case& one, double runtime_s, uint64_t runtime_ms) {
  constexpr double kMostMissing = 0.1;
  if (one.values.at("volume") == "0" &&
      static_cast<double>(runtime_ms) < (1 - kMostMissing) * runtime_s * 1000)
    throw Wrong("ran " + std::to_string(runtime_ms) + " ms, expected " + ms(runtime_s) +
                ": fio has ended it before its time");
}

// A flush of fdatasync= counts as a short read there; but no job here has any.
void need_whole_requests(const nlohmann::json& job) {
  for (const char* direction : {"read", "write"})
    for (const char* what : {"short_ios", "drop_ios"})
      if (const uint64_t n = job.at(direction).value(what, uint64_t{0}); n > 0)
        throw Wrong("fio reports " + std::to_string(n) + " " + what + " of " + direction +
                    ", expected none: its requests were not done whole");
}

// fsync= has them under `sync`, with a latency each; gtod_reduce leaves the number alone.
void add_flushes(const nlohmann::json& job, nlohmann::ordered_json* metrics) {
  if (!job.contains("sync")) return;
  const auto& sync = job.at("sync");
  const auto lat = sync.value("lat_ns", nlohmann::json::object());
  const uint64_t n = std::max(sync.value("total_ios", uint64_t{0}), lat.value("N", uint64_t{0}));
  if (n == 0) return;
  (*metrics)["flush"] = {{"ios", n}};
  if (lat.value("N", uint64_t{0}) > 0)
    (*metrics)["flush"]["lat_ns"] = {
        {"mean", lat.at("mean")}, {"min", lat.at("min")}, {"max", lat.at("max")}};
}

// A ratio of a part of the trace would look like one of all.
void need_all_replayed(const Replay& replay, uint64_t ios) {
  const Trace& trace = replay.layout->trace();
  if (ios != trace.reads + trace.writes)
    throw Wrong("fio has replayed " + std::to_string(ios) + " requests of " + trace.file +
                ", expected " + std::to_string(trace.reads + trace.writes));
}

}  // namespace

std::string path_of(const Case& one) {
  constexpr std::string_view kPath = "path:";
  const std::string& engine = one.values.at("engine");
  return engine.starts_with(kPath) ? engine.substr(kPath.size()) : "";
}

uint64_t cache_bytes_of(const Case& one) {
  return one.replay ? one.replay->cache_bytes : *bytes_of(one.values.at("cache_size"));
}

uint64_t device_bytes_of(const Case& one) {
  return one.replay ? one.replay->layout->bytes() : working_set_bytes_of(one);
}

// In whole MiB: a multiple of every request size but the largest.
uint64_t working_set_bytes_of(const Case& one) {
  const double bytes =
      std::stod(one.values.at("working_set")) * static_cast<double>(cache_bytes_of(one));
  const uint64_t unit = std::max(kLeastWorkingSet, *bytes_of(one.values.at("bs")));
  return std::max<uint64_t>(1, static_cast<uint64_t>(bytes) / unit) * unit;
}

uint64_t range_bytes_of(const Case& one) {
  const uint64_t all = working_set_bytes_of(one);
  if (one.values.at("ranges") == "shared") return all;
  const uint64_t bs = *bytes_of(one.values.at("bs"));
  return all / std::stoull(one.values.at("numjobs")) / bs * bs;
}

FioJob make_job(const Spec& spec, const Case& one, const Place& place, const Build& build,
                uint32_t repeat, const std::string& series) {
  const Values& v = one.values;
  std::ostringstream global;
  global << "; " << one.id << ", round " << repeat << "\n[global]\n";
  add_engine(global, one, place, build, series);
  // Ours and the bound complete at once at any depth; fio's buffers are not what is measured.
  global << "norandommap=1\nrandrepeat=1\nrandseed=" << spec.seed + repeat
         << "\nscramble_buffers=0\n";
  const bool plain_device = v.at("engine") == "uring";
  FioJob job;
  std::ostringstream fill;
  if (v.at("fill") != "empty" && !plain_device) add_fill(fill, one);
  const bool drains = v.at("fill") == "clean" && v.at("engine") == "pcache";
  // Of several hosts, too, since one has filled before another, and they are to measure at once.
  if (drains || (place.on_hosts() && !fill.str().empty())) {
    job.fill = global.str() + (drains ? "drain=1\n" : "") + fill.str();
    fill.str("");
  }
  std::ostringstream out;
  out << global.str() << "group_reporting=1\n" << fill.str();
  const uint64_t numjobs = std::stoull(v.at("numjobs"));
  const uint64_t bs = *bytes_of(v.at("bs"));
  const uint64_t range_bytes = range_bytes_of(one);
  out << "[measure]\nstonewall\nrw=" << v.at("rw") << "\nbs=" << v.at("bs")
      << "\niodepth=" << v.at("iodepth") << "\nnumjobs=" << numjobs << "\nsize=" << range_bytes
      << "\nruntime=" << ms(spec.runtime_s) << "\n";
  if (v.at("ranges") == "own") out << "offset_increment=" << range_bytes << "\n";
  if (v.contains("rwmixread")) out << "rwmixread=" << v.at("rwmixread") << "\n";
  if (v.at("distribution") != "random")
    out << "random_distribution=" << v.at("distribution") << "\n";
  if (v.at("fsync") != "0") out << "fsync=" << v.at("fsync") << "\n";
  if (v.at("volume") == "0") {
    out << "time_based=1\nramp_time=" << ms(spec.warmup_s) << "\n";
  } else {
    const double bytes = std::stod(v.at("volume")) * static_cast<double>(cache_bytes_of(one));
    out << "io_size=" << std::max<uint64_t>(1, static_cast<uint64_t>(bytes) / numjobs / bs) * bs
        << "\n";
  }
  add_latency(out, one, series);
  job.measure = out.str();
  return job;
}

// In the order of the log, and as fast as it goes.
FioJob make_replay_job(const Case& one, const Place& place, const Build& build, uint32_t repeat,
                       const std::string& series, const std::string& iolog) {
  std::ostringstream out;
  out << "; " << one.id << ", round " << repeat << "\n[measure]\n";
  add_engine(out, one, place, build, series);
  const std::string path = path_of(one);
  out << "read_iolog=" << iolog
      << "\nreplay_no_stall=1\nreplay_redirect=" << (path.empty() ? place.backing() : path)
      << "\niodepth=" << one.values.at("iodepth") << "\nscramble_buffers=0\n";
  add_latency(out, one, series);
  return {"", out.str()};
}

nlohmann::ordered_json metrics_of(const Case& one, double runtime_s, const nlohmann::json& fio) {
  for (const auto& job : fio.at("jobs")) {
    if (job.at("jobname") != "measure") continue;
    if (const int error = job.value("error", 0))
      throw Wrong("fio reports error " + std::to_string(error));
    nlohmann::ordered_json metrics;
    double iops = 0, bytes_per_s = 0;
    uint64_t runtime_ms = 0, ios = 0;
    for (const char* direction : {"read", "write"}) {
      const auto& d = job.at(direction);
      if (d.at("total_ios") == 0) continue;
      metrics[direction] = figures_of(d);
      runtime_ms = std::max(runtime_ms, d.at("runtime").get<uint64_t>());
      ios += d.at("total_ios").get<uint64_t>();
      iops += d.at("iops").get<double>();
      bytes_per_s += d.at("bw_bytes").get<double>();
    }
    need_whole_requests(job);
    if (one.replay) {
      need_all_replayed(*one.replay, ios);
    } else {
      need_enough(iops, runtime_ms);
      need_all_of_its_time(one, runtime_s, runtime_ms);
    }
    add_flushes(job, &metrics);
    // Of a trace that takes no millisecond fio says 0.
    metrics["iops"] = iops > 0 ? iops : static_cast<double>(ios) * 1000;
    metrics["bytes_per_s"] = bytes_per_s;
    metrics["cpu_user_percent"] = job.at("usr_cpu");
    metrics["cpu_system_percent"] = job.at("sys_cpu");
    metrics["context_switches"] = job.at("ctx");
    return metrics;
  }
  throw Wrong("fio's output has no job `measure`");
}

// A line of a log: "ms, value, direction, block size, offset, ...".
std::string series_of(const std::string& prefix) {
  const std::filesystem::path path(prefix);
  std::map<long long, std::pair<double, double>> sums;
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path())) {
    if (!entry.path().filename().string().starts_with(path.filename().string() + "_iops."))
      continue;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      std::istringstream fields(line);
      long long at;
      double value;
      int direction;
      char comma;
      if (!(fields >> at >> comma >> value >> comma >> direction)) continue;
      auto& sum = sums[at / kSeriesMs * kSeriesMs];
      (direction == 0 ? sum.first : sum.second) += value;
    }
  }
  if (sums.empty()) return {};
  std::ostringstream csv;
  csv << "ms,read_iops,write_iops\n";
  for (const auto& [at, sum] : sums) csv << at << "," << sum.first << "," << sum.second << "\n";
  return csv.str();
}

}  // namespace pcache::sweep
