// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/turns_command.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "sweep/build.h"
#include "sweep/cache_library.h"
#include "sweep/fio_process.h"
#include "sweep/parameter.h"
#include "sweep/place.h"
#include "sweep/scratch.h"

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
  size_t turns;  // of each build, in each half of a round; what they write is to find room
};
constexpr Case kCases[] = {{"read hit", PCACHE_OP_READ, 150}, {"write hit", PCACHE_OP_WRITE, 40}};

// Of the two builds, in their order.
using Libraries = std::array<std::unique_ptr<CacheLibrary>, 2>;
using Caches = std::array<std::unique_ptr<OpenCache>, 2>;
using Places = std::array<std::unique_ptr<LocalPlace>, 2>;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

struct Measured {
  double ns, speed;  // see the header
};

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
  Turns(Caches& caches, uint64_t seed) : caches_(caches), random_(seed) {}

  // Every page of the working set, in an order of its own.
  void fill() {
    Offsets pages(kWorkingSetBytes / kPageBytes);
    std::iota(pages.begin(), pages.end(), 0);
    for (uint64_t& page : pages) page *= kPageBytes;
    std::shuffle(pages.begin(), pages.end(), random_);
    for (auto& cache : caches_) cache->do_each(PCACHE_OP_WRITE, pages, kPageBytes, buffer_.data());
  }

  // Both do the same requests, and who begins is drawn for each turn.
  Measured measure(const Case& what) {
    std::uniform_int_distribution<uint64_t> page(0, kWorkingSetBytes / kPageBytes - 1);
    Offsets offsets(kRequests);
    std::vector<double> first_ns, speeds;
    for (size_t turn = 0; turn < what.turns; turn++) {
      if (is_interrupted()) throw Interrupted();
      for (uint64_t& off : offsets) off = page(random_) * kPageBytes;
      const size_t begins = random_() % 2;
      std::array<double, 2> ns{};
      for (const size_t side : {begins, 1 - begins})
        ns[side] = ns_of(*caches_[side], what, offsets);
      first_ns.push_back(ns[0]);
      speeds.push_back(ns[0] / ns[1]);
    }
    return {median(std::move(first_ns)), median(std::move(speeds))};
  }

 private:
  // Of a request.
  double ns_of(OpenCache& cache, const Case& what, const Offsets& offsets) {
    const auto begin = std::chrono::steady_clock::now();
    cache.do_each(what.op, offsets, kPageBytes, buffer_.data());
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    return took.count() / static_cast<double>(offsets.size());
  }

  Caches& caches_;
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
  Scratch::remove_left_over(options.cache_dir);
  Scratch::remove_left_over(options.backing_dir);
  LocalPlace::check(place_of(options), 2 * kCacheBytes, 2 * kWorkingSetBytes, {});
}

// All cases, with the first build on the first of the places, or on the second: where a file lies
// in memory makes as much of its speed as what is looked for. Who comes first changes, too.
std::vector<Measured> measure_half(const Libraries& libraries, const Places& places, bool swapped,
                                   bool data_crc, uint64_t seed) {
  Caches caches;
  for (const size_t i : {size_t{swapped}, size_t{!swapped}})
    caches[i] = format(*libraries[i], *places[i ^ size_t{swapped}], data_crc);
  const auto turns = std::make_unique<Turns>(caches, seed);
  turns->fill();
  std::vector<Measured> measured;
  for (const Case& what : kCases) measured.push_back(turns->measure(what));
  return measured;
}

Json measure_all(const TurnsOptions& options, const Libraries& libraries) {
  Places places;
  for (auto& place : places)
    place = std::make_unique<LocalPlace>(place_of(options), kCacheBytes, kWorkingSetBytes,
                                         std::map<std::string, uint64_t>{});
  Json cases = Json::object();
  uint64_t seed = options.seed * kMostRounds * 4;
  for (uint32_t round = 0; round < options.rounds; round++)
    for (const bool data_crc : {false, true}) {
      const auto half = measure_half(libraries, places, round % 2 != 0, data_crc, seed++);
      const auto other = measure_half(libraries, places, round % 2 == 0, data_crc, seed++);
      for (size_t i = 0; i < std::size(kCases); i++)
        cases[std::string(kCases[i].name) + (data_crc ? " data_crc=1" : "")].push_back(
            {{"ns", (half[i].ns + other[i].ns) / 2},
             {"speed", std::sqrt(half[i].speed * other[i].speed)}});
    }
  return cases;
}

}  // namespace

int turns(const TurnsOptions& options) {
  check(options);
  const std::vector<Build> builds = find_builds(options.builds);
  say_other_source_trees(builds);
  Libraries libraries;
  Json said = Json::array();
  for (size_t i = 0; i < 2; i++) {
    libraries[i] = std::make_unique<CacheLibrary>(builds[i].dir + "/lib/libpcache.so");
    said.push_back(builds[i].stamp ? builds[i].stamp->text() : "");
  }
  watch_signals();
  try {
    const Json found = {{"builds", said}, {"cases", measure_all(options, libraries)}};
    if (puts(found.dump().c_str()) < 0 || fflush(stdout) != 0)
      throw Wrong(std::string("standard output: ") + strerror(errno));
    return 0;
  } catch (const Interrupted&) {
    fprintf(stderr, "pcache-sweep: interrupted\n");
    return kInterrupted;
  }
}

}  // namespace pcache::sweep
