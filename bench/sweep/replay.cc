// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/replay.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <tuple>

#include "sweep/capacity.h"
#include "sweep/spec.h"

namespace pcache::sweep {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

namespace {

constexpr uint64_t kMostModelBlocks = 50'000'000;          // some seconds
constexpr uint64_t kMostBlockBytes = 16 << 20;             // as the parameter says
constexpr uint64_t kKeyBytes = 40, kKsetHeaderBytes = 24;  // core/format/FORMAT.md

// Each file is read once, and each layout of it is made once.
class Loader {
 public:
  explicit Loader(std::string folder) : folder_(std::move(folder)) {}

  std::shared_ptr<const TraceLayout> layout(const Values& v) {
    const std::string file = fs::path(folder_) / v.at("trace");
    const uint64_t most = std::stoull(v.at("requests")), block = *bytes_of(v.at("block_bytes"));
    auto& layout = layouts_[{file, most, block}];
    if (!layout) {
      auto& trace = traces_[{file, most}];
      if (!trace) trace = std::make_shared<const Trace>(read_trace(file, most));
      layout = std::make_shared<const TraceLayout>(trace, block);
    }
    return layout;
  }

 private:
  const std::string folder_;
  std::map<std::pair<std::string, uint64_t>, std::shared_ptr<const Trace>> traces_;
  std::map<std::tuple<std::string, uint64_t, uint64_t>, std::shared_ptr<const TraceLayout>>
      layouts_;
};

// Whole blocks, as a cache holds them.
uint64_t blocks_in(const TraceLayout& layout, uint64_t bytes) {
  return std::max<uint64_t>(1, bytes / layout.block_bytes());
}

[[noreturn]] void too_small(const TraceLayout& layout, const std::string& share, uint64_t wanted,
                            int gc_percent, uint64_t least) {
  constexpr uint64_t kStep = 4096;
  const double block = static_cast<double>(layout.block_bytes()) * static_cast<double>(least) /
                       static_cast<double>(std::max<uint64_t>(1, wanted));
  const uint64_t enough = (static_cast<uint64_t>(block) / kStep + 1) * kStep;
  throw Wrong(layout.trace().file + ": cache_share " + share + " of its " +
              std::to_string(layout.bytes() >> 20) + " MiB is " + std::to_string(wanted >> 20) +
              " MiB; the smallest cache keeps " + std::to_string(least >> 20) +
              " with gc_percent " + std::to_string(gc_percent) + "; give " +
              (enough <= kMostBlockBytes ? "block_bytes of " + size_of(enough) + " or more"
                                         : "a larger share, or cache_size"));
}

void size_the_cache(Case& one, Replay& replay) {
  const TraceLayout& layout = *replay.layout;
  const int gc_percent = std::stoi(one.values.at("gc_percent"));
  uint64_t wanted = 0;  // bytes of data
  if (const auto share = one.values.find("cache_share"); share != one.values.end()) {
    if (gc_percent < kLeastGcPercent || gc_percent > kMostGcPercent)
      throw Wrong("cache_share: gc_percent " + std::to_string(gc_percent) +
                  ": expected 50 to 70, of which it is known how much data a cache keeps");
    const double part = std::stod(share->second);
    wanted = static_cast<uint64_t>(std::llround(part * static_cast<double>(layout.bytes())));
    replay.cache_bytes = cache_bytes_for(wanted, gc_percent);
    const uint64_t got = *capacity_of(replay.cache_bytes, gc_percent);
    // Of half a segment more or less nobody need be told; it is in the results.
    constexpr uint64_t kSlack = 8 << 20;
    if (got > wanted + kSlack) too_small(layout, share->second, wanted, gc_percent, got);
    one.values["cache_size"] = size_of(replay.cache_bytes);
  } else {
    replay.cache_bytes = *bytes_of(one.values.at("cache_size"));
  }
  replay.capacity_bytes = capacity_of(replay.cache_bytes, gc_percent);
  if (wanted == 0 && replay.capacity_bytes) wanted = *replay.capacity_bytes;
  if (wanted == 0) return;
  const uint64_t accesses = blocks_in(layout, layout.requested_bytes());
  if (accesses <= kMostModelBlocks) replay.model = model_of(layout, blocks_in(layout, wanted));
}

double ratio(uint64_t part, uint64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

void load_traces(Spec& spec, const std::string& folder) {
  spec.folder = folder;
  Loader loader(folder);
  for (Case& one : spec.cases) {
    if (!one.values.contains("trace")) continue;
    auto replay = std::make_shared<Replay>();
    replay->layout = loader.layout(one.values);
    if (one.values.at("engine") == "pcache") size_the_cache(one, *replay);
    one.replay = std::move(replay);
  }
}

ordered_json facts_of_traces(const Spec& spec) {
  ordered_json facts;
  for (const Case& one : spec.cases) {
    if (!one.replay) continue;
    const TraceLayout& layout = *one.replay->layout;
    const Trace& trace = layout.trace();
    ordered_json fact = {{"trace", one.values.at("trace")},
                         {"file", fs::absolute(trace.file).lexically_normal()},
                         {"hash", trace.hash},
                         {"reads", trace.reads},
                         {"writes", trace.writes},
                         {"trims_left_out", trace.trims},
                         {"is_cut", trace.is_cut},
                         {"blocks", layout.blocks()},
                         {"bytes", layout.bytes()},
                         {"requested_bytes", layout.requested_bytes()}};
    if (std::ranges::find(facts, fact) == facts.end()) facts.push_back(std::move(fact));
  }
  return facts;
}

void need_same_traces(const Spec& spec, const ordered_json& run, const std::string& folder) {
  const ordered_json now = facts_of_traces(spec);
  if (now.is_null() && !run.contains("traces")) return;
  const ordered_json& then = run.at("traces");
  for (size_t i = 0; i < std::min(now.size(), then.size()); i++)
    if (now[i] != then[i])
      throw Wrong(now[i].at("file").get<std::string>() + ": is not what it was when " + folder +
                  " was begun; begin a new run");
}

ordered_json replay_metrics(const Replay& replay, const json& status) {
  ordered_json metrics = {{"bytes", replay.layout->bytes()},
                          {"requested_bytes", replay.layout->requested_bytes()}};
  if (status.is_null()) return metrics;
  const auto count = [&](const char* object, const char* name) {
    return status.at(object).at(name).get<uint64_t>();
  };
  const uint64_t read = count("requests", "read_bytes"), written = count("requests", "write_bytes");
  const uint64_t fetched = count("events", "fill_bytes"), kept = count("events", "fill_kept_bytes");
  const uint64_t cached = count("index", "mapped_bytes");
  const uint64_t forgotten = count("reclaim", "forgotten_bytes");
  // What came into the index and is neither there nor forgotten was written over.
  const uint64_t came = written + kept, over = came - std::min(came, cached + forgotten);
  const uint64_t read_hits = read - std::min(read, fetched);
  const uint64_t keys = count("log", "keys") + count("log", "open_keys");
  const uint64_t moved = status.at("writeback").value("moved_bytes", uint64_t{0});
  const uint64_t stored =
      came + moved + keys * kKeyBytes + count("log", "ksets") * kKsetHeaderBytes;
  if (replay.capacity_bytes) metrics["capacity_bytes"] = *replay.capacity_bytes;
  metrics["cached_bytes"] = cached;
  metrics["hit_ratio"] = ratio(read_hits + over, read + written);
  if (read > 0) {
    metrics["read_hit_ratio"] = ratio(read_hits, read);
    metrics["whole_read_hits"] = ratio(count("requests", "read_hits"), count("requests", "reads"));
  }
  if (written > 0) metrics["write_hit_ratio"] = ratio(std::min(over, written), written);
  metrics["backing_read_bytes"] = fetched;
  metrics["backing_written_bytes"] = count("writeback", "written_bytes");
  metrics["dirty_bytes"] = count("dirty", "bytes");
  metrics["not_kept_bytes"] = fetched - std::min(fetched, kept);
  metrics["pmem_bytes"] = stored;
  if (written > 0) metrics["write_amplification"] = ratio(stored, written);
  if (replay.model) metrics["model"] = {{"fifo", replay.model->fifo}, {"lru", replay.model->lru}};
  return metrics;
}

}  // namespace pcache::sweep
