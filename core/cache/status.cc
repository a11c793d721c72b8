// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/status.h"

#include <nlohmann/json.hpp>

namespace pcache {

namespace {

using Json = nlohmann::ordered_json;

std::string position(CachePos pos) {
  return std::to_string(pos.seg.v) + ":" + std::to_string(pos.off);
}

Json requests(Cache& cache) {
  uint64_t sum[10] = {};
  constexpr std::atomic<uint64_t> QueueCounters::*kFields[10] = {
      &QueueCounters::writes,      &QueueCounters::write_bytes, &QueueCounters::reads,
      &QueueCounters::read_bytes,  &QueueCounters::read_hits,   &QueueCounters::read_partial,
      &QueueCounters::read_misses, &QueueCounters::flushes,     &QueueCounters::fua,
      &QueueCounters::errors};
  constexpr const char* kNames[10] = {
      "writes",      "write_bytes", "reads",      "read_bytes", "read_hits", "read_partial_hits",
      "read_misses", "flushes",     "fua_writes", "errors"};
  cache.queues().each_counters([&](const QueueCounters& counters) {
    for (size_t i = 0; i < 10; i++)
      sum[i] += (counters.*kFields[i]).load(std::memory_order_relaxed);
  });
  Json json;
  for (size_t i = 0; i < 10; i++) json[kNames[i]] = sum[i];
  return json;
}

Json shared(const SharedCounters& c) {
  const auto get = [](const std::atomic<uint64_t>& v) { return v.load(std::memory_order_relaxed); };
  return {{"fills", get(c.fills)},
          {"fill_bytes", get(c.fill_bytes)},
          {"fill_joins", get(c.fill_joins)},
          {"fills_uncached", get(c.fills_uncached)},
          {"bad_clean_dropped", get(c.clean_dropped)},
          {"bad_dirty_reads", get(c.dirty_bad)},
          {"backing_errors", get(c.backing_errors)},
          {"writes_on_full_cache", get(c.full)}};
}

}  // namespace

std::string status_line(Cache& cache) {
  const SegmentCounts segs = cache.segments().counts();
  const auto& info = cache.frame().info;
  char line[256];
  snprintf(line, sizeof line, "0 %llu pcache %x %u %u %u %u %x %s %s %s",
           static_cast<unsigned long long>(cache.backing().size_bytes() / kSectorBytes), 0u,
           cache.frame().seg_num, segs.total, segs.total - segs.free, info.gc_percent,
           make_cache_info(info).flags, position(cache.log().head()).c_str(),
           position(cache.tails().dirty_tail()).c_str(),
           position(cache.tails().key_tail()).c_str());
  return line;
}

std::string status_json(Cache& cache) {
  const SegmentCounts segs = cache.segments().counts();
  const KeyLog::Counters log = cache.log().counters();
  const auto& replayed = cache.replayed();
  Json json;
  json["version"] = 1;
  json["cache"] = {{"pmem_kind", pmem_kind_name(cache.pmem().kind())},
                   {"persist", cache.pmem().persist_name()},
                   {"data_crc", cache.frame().info.data_crc},
                   {"gc_percent", cache.frame().info.gc_percent}};
  json["backing"] = {{"bytes", cache.backing().size_bytes()},
                     {"block_size", cache.backing().logical_block_bytes()},
                     {"io_mode", cache.backing().io_mode_name()},
                     {"identity", cache.backing().identity().text}};
  json["segments"] = {{"total", segs.total}, {"used", segs.total - segs.free},
                      {"free", segs.free},   {"log", segs.log},
                      {"data", segs.data},   {"reserved_for_log", segs.log_reserve}};
  json["log"] = {{"key_head", position(cache.log().head())},
                 {"dirty_tail", position(cache.tails().dirty_tail())},
                 {"key_tail", position(cache.tails().key_tail())},
                 {"ksets", log.ksets},
                 {"groups", log.groups},
                 {"keys", log.keys},
                 {"rolls", log.rolls},
                 {"open_keys", cache.stripes().open_keys()}};
  json["replay"] = {{"ksets", replayed.ksets},
                    {"keys", replayed.keys},
                    {"dead_keys", replayed.dead_keys},
                    {"dirty_keys", replayed.dirty_keys},
                    {"dirty_bytes", replayed.dirty_bytes},
                    {"torn_tail", replayed.torn_tail}};
  json["index"] = {{"mapped_bytes", cache.index().mapped_bytes()},
                   {"memory_bytes", cache.index().memory_bytes()}};
  json["requests"] = requests(cache);
  json["events"] = shared(cache.context().counters);
  // Paths are bytes, JSON is UTF-8: what is not valid is replaced, never thrown at the caller.
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace pcache
