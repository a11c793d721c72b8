// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/turns_command.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "sweep/build.h"
#include "sweep/cache_library.h"
#include "sweep/fio_process.h"
#include "sweep/parameter.h"
#include "sweep/place.h"

namespace pcache::sweep {

namespace {

using Json = nlohmann::ordered_json;
using Offsets = std::vector<uint64_t>;
using Random = std::mt19937_64;

constexpr int kInterrupted = 130;
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kCacheBytes = uint64_t{1} << 30;
constexpr uint64_t kWorkingSetBytes = uint64_t{128} << 20;  // far above any cache of a CPU
constexpr uint32_t kMostRounds = 1000;
// Of a turn. It takes a fraction of a millisecond: less, and the first requests, which find the
// CPU's caches full of the other build, are a large part of it; more, and a turn has more of what
// goes on beside it.
constexpr size_t kRequests = 1000;

struct Case {
  const char* name;
  uint32_t op;
  size_t turns;  // of each build. What they write is to find room in the cache.
};
constexpr Case kCases[] = {{"read hit", PCACHE_OP_READ, 300}, {"write hit", PCACHE_OP_WRITE, 80}};

struct Side {
  std::unique_ptr<CacheLibrary> library;
  std::unique_ptr<OpenCache> cache;
};
using Sides = std::array<Side, 2>;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::unique_ptr<OpenCache> format(const CacheLibrary& library, const Place& place, bool data_crc) {
  place.blank_cache(kCacheBytes);
  const OpenCache::Option options[] = {
      {"cache_path", place.cache()},
      {"backing_path", place.backing()},
      {"emulate_pmem", "1"},
      {"persist", "flushcache"},
      {"data_crc", data_crc ? "1" : "0"},
      {"gc_percent", "90"},
      {"writeback_interval_ms", "3600000"},
      {"prefault", "attach"},
  };
  return std::make_unique<OpenCache>(library, options);
}

class Turns {
 public:
  Turns(Sides& sides, uint64_t seed) : sides_(sides), random_(seed) {}

  // Every page of the working set, in an order of its own.
  void fill() {
    Offsets pages(kWorkingSetBytes / kPageBytes);
    std::iota(pages.begin(), pages.end(), 0);
    for (uint64_t& page : pages) page *= kPageBytes;
    std::shuffle(pages.begin(), pages.end(), random_);
    for (Side& side : sides_)
      side.cache->do_each(PCACHE_OP_WRITE, pages, kPageBytes, buffer_.data());
  }

  // Both do the same requests, and who begins is drawn for each turn.
  Json measure(const Case& what) {
    std::uniform_int_distribution<uint64_t> page(0, kWorkingSetBytes / kPageBytes - 1);
    Offsets offsets(kRequests);
    std::vector<double> first_ns, speeds;
    for (size_t turn = 0; turn < what.turns; turn++) {
      if (is_interrupted()) throw Interrupted();
      for (uint64_t& off : offsets) off = page(random_) * kPageBytes;
      const size_t begins = random_() % 2;
      std::array<double, 2> ns{};
      for (const size_t side : {begins, 1 - begins}) ns[side] = ns_of(sides_[side], what, offsets);
      first_ns.push_back(ns[0]);
      speeds.push_back(ns[0] / ns[1]);
    }
    return {{"ns", median(std::move(first_ns))}, {"speed", median(std::move(speeds))}};
  }

 private:
  // Of a request.
  double ns_of(Side& side, const Case& what, const Offsets& offsets) {
    const auto begin = std::chrono::steady_clock::now();
    side.cache->do_each(what.op, offsets, kPageBytes, buffer_.data());
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    return took.count() / static_cast<double>(offsets.size());
  }

  Sides& sides_;
  Random random_;
  alignas(kPageBytes) std::array<std::byte, kPageBytes> buffer_{};
};

PlaceOptions place_of(const TurnsOptions& options) {
  PlaceOptions place;
  place.cache_dir = options.cache_dir;
  place.backing_dir = options.backing_dir;
  return place;
}

void check(const TurnsOptions& options) {
  if (options.builds.size() != 2)
    throw Wrong("turns: expected two build directories, " + std::to_string(options.builds.size()) +
                " are given");
  if (options.rounds < 1 || options.rounds > kMostRounds)
    throw Wrong("--rounds " + std::to_string(options.rounds) + ": expected 1 to " +
                std::to_string(kMostRounds));
  LocalPlace::check(place_of(options), 2 * kCacheBytes, 2 * kWorkingSetBytes, {});
}

Json measure_all(const TurnsOptions& options, Sides& sides) {
  std::array<std::unique_ptr<LocalPlace>, 2> places;
  for (auto& place : places)
    place = std::make_unique<LocalPlace>(place_of(options), kCacheBytes, kWorkingSetBytes,
                                         std::map<std::string, uint64_t>{});
  Json cases = Json::object();
  for (uint32_t round = 0; round < options.rounds; round++) {
    for (const bool data_crc : {false, true}) {
      for (size_t i = 0; i < 2; i++)
        sides[i].cache = format(*sides[i].library, *places[(i + round) % 2], data_crc);
      auto turns = std::make_unique<Turns>(sides, options.seed + 2 * round + data_crc);
      turns->fill();
      for (const Case& what : kCases)
        cases[std::string(what.name) + (data_crc ? " data_crc=1" : "")].push_back(
            turns->measure(what));
      for (Side& side : sides) side.cache.reset();
    }
  }
  return cases;
}

}  // namespace

int turns(const TurnsOptions& options) {
  check(options);
  const std::vector<Build> builds = find_builds(options.builds);
  say_other_source_trees(builds);
  Sides sides;
  Json said = Json::array();
  for (size_t i = 0; i < 2; i++) {
    sides[i].library = std::make_unique<CacheLibrary>(builds[i].dir + "/lib/libpcache.so");
    said.push_back(builds[i].stamp ? builds[i].stamp->text() : "");
  }
  watch_signals();
  try {
    puts(Json{{"builds", said}, {"cases", measure_all(options, sides)}}.dump().c_str());
    return 0;
  } catch (const Interrupted&) {
    fprintf(stderr, "pcache-sweep: interrupted\n");
    return kInterrupted;
  }
}

}  // namespace pcache::sweep
