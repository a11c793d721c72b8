// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/status.h"

#include "cache/json.h"

namespace pcache {

namespace {

std::string position(CachePos pos) {
  return std::to_string(pos.seg.v) + ":" + std::to_string(pos.off);
}

Json requests(Cache& cache) {
  uint64_t sum[10] = {};
  constexpr Counter QueueCounters::*kFields[10] = {
      &QueueCounters::writes,      &QueueCounters::write_bytes, &QueueCounters::reads,
      &QueueCounters::read_bytes,  &QueueCounters::read_hits,   &QueueCounters::read_partial,
      &QueueCounters::read_misses, &QueueCounters::flushes,     &QueueCounters::fua,
      &QueueCounters::errors};
  constexpr const char* kNames[10] = {
      "writes",      "write_bytes", "reads",      "read_bytes", "read_hits", "read_partial_hits",
      "read_misses", "flushes",     "fua_writes", "errors"};
  cache.queues().each_counters([&](const QueueCounters& counters) {
    for (size_t i = 0; i < 10; i++) sum[i] += (counters.*kFields[i]).load();
  });
  Json json;
  for (size_t i = 0; i < 10; i++) json[kNames[i]] = sum[i];
  return json;
}

Json shared(const SharedCounters& c) {
  return {{"fills", c.fills.load()},
          {"fill_bytes", c.fill_bytes.load()},
          {"fill_joins", c.fill_joins.load()},
          {"fills_uncached", c.fills_uncached.load()},
          {"bad_clean_dropped", c.clean_dropped.load()},
          {"bad_dirty_reads", c.dirty_bad.load()},
          {"backing_errors", c.backing_errors.load()},
          {"waits_on_full", c.waits.load()}};
}

Json dirty(Cache& cache) {
  const Cache::Dirty dirty = cache.dirty();
  return {{"ksets", dirty.ksets}, {"bytes", dirty.bytes}};
}

Json writeback(Cache& cache) {
  const auto& c = cache.writeback().counters();
  const Worker::State state = cache.worker().state();
  return {{"state", state.failing ? "failing" : "ok"},
          {"last_error", state.last_error},
          {"backoff_ms", state.backoff.count()},
          {"errors", c.errors.load()},
          {"failed_writes", c.failed_writes.load()},
          {"batches", c.batches.load()},
          {"ksets", c.ksets.load()},
          {"keys", c.keys.load()},
          {"bytes", c.appended_bytes.load()},
          {"writes", c.writes.load()},
          {"written_bytes", c.written_bytes.load()},
          {"flushes", c.flushes.load()},
          {"bad_extents", c.bad_keys.load()}};
}

Json reclaim(Cache& cache) {
  const auto& c = cache.reclaim().counters();
  const char* const fault = cache.worker().reclaim_fault();
  return {{"state", fault ? fault : "ok"},
          {"ksets", c.ksets.load()},
          {"keys", c.keys.load()},
          {"dead_keys", c.dead_keys.load()},
          {"forgotten_bytes", c.forgotten_bytes.load()},
          {"bad_clean_extents", c.bad_clean.load()},
          {"errors", c.errors.load()}};
}

Json latency(Cache& cache) {
  constexpr const char* kNames[kLatencyClasses] = {"read_hit",  "read_miss",    "write",
                                                   "write_fua", "write_waited", "flush"};
  std::array<Histogram, kLatencyClasses> all;
  cache.queues().each_counters([&](const QueueCounters& counters) {
    for (size_t i = 0; i < kLatencyClasses; i++) all[i].merge(counters.latency[i]);
  });
  Json json;
  for (size_t i = 0; i < kLatencyClasses; i++) {
    const Histogram& h = all[i];
    const bool sampled = i != static_cast<size_t>(LatencyClass::kReadMiss) &&
                         i != static_cast<size_t>(LatencyClass::kWriteWaited);
    Json buckets = Json::array();
    for (size_t b = 0; b < Histogram::kBuckets; b++)
      if (h.count(b) > 0) buckets.push_back({Histogram::upper_ns(b), h.count(b)});
    json[kNames[i]] = {{"count", h.count()},
                       {"timed_one_in", sampled ? kSampling : 1},
                       {"p50_ns", h.quantile_ns(0.5)},
                       {"p99_ns", h.quantile_ns(0.99)},
                       {"p999_ns", h.quantile_ns(0.999)},
                       {"max_ns", h.max_ns()},
                       {"buckets", buckets}};
  }
  return json;
}

}  // namespace

std::string status_line(Cache& cache) {
  const SegmentCounts segs = cache.segments().counts();
  const CacheInfoFields info = cache.info();
  char line[256];
  snprintf(line, sizeof line, "0 %llu pcache %x %u %u %u %u %x %s %s %s",
           static_cast<unsigned long long>(cache.backing().size_bytes() / kSectorBytes),
           cache.frame().sb_flags, cache.frame().seg_num, segs.total, segs.total - segs.free,
           info.gc_percent, make_cache_info(info).flags, position(cache.log().head()).c_str(),
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
                   {"readonly", cache.readonly()},
                   {"data_crc", cache.frame().info.data_crc},
                   {"gc_percent", cache.gc_percent()}};
  if (const auto& calibration = cache.calibration())
    for (const Calibration::Method& method : calibration->measured)
      for (size_t c = 0; c < Calibration::kClasses; c++)
        json["cache"]["persist_ns"][method.ops->name][std::to_string(Calibration::kSizes[c])] =
            method.ns[c];
  json["backing"] = {{"bytes", cache.backing().size_bytes()},
                     {"block_size", cache.backing().logical_block_bytes()},
                     {"io_mode", cache.backing().io_mode_name()},
                     {"identity", cache.backing().identity().text}};
  json["segments"] = {{"total", segs.total},    {"used", segs.total - segs.free},
                      {"free", segs.free},      {"log", segs.log},
                      {"data", segs.data},      {"reserved_for_log", segs.log_reserve},
                      {"retired", segs.retired}};
  json["media"] = {{"bad_pages", cache.pmem().bad_pages()},
                   {"log_failed", cache.log().failed()},
                   {"tails_failed", cache.tails().failed()}};
  json["log"] = {{"key_head", position(cache.log().head())},
                 {"dirty_tail", position(cache.tails().dirty_tail())},
                 {"key_tail", position(cache.tails().key_tail())},
                 {"ksets", log.ksets},
                 {"groups", log.groups},
                 {"keys", log.keys},
                 {"rolls", log.rolls},
                 {"open_keys", cache.stripes().open_keys()}};
  json["dirty"] = dirty(cache);
  json["writeback"] = writeback(cache);
  json["reclaim"] = reclaim(cache);
  json["replay"] = {{"ksets", replayed.ksets},
                    {"keys", replayed.keys},
                    {"dead_keys", replayed.dead_keys},
                    {"dirty_keys", replayed.dirty_keys},
                    {"dirty_bytes", replayed.dirty_bytes},
                    {"torn_tail", replayed.torn_tail},
                    {"bad_clean_dropped", cache.verified().clean_dropped},
                    {"bad_dirty_extents", cache.verified().dirty_bad}};
  json["index"] = {{"mapped_bytes", cache.index().mapped_bytes()},
                   {"memory_bytes", cache.index().memory_bytes()}};
  json["requests"] = requests(cache);
  json["requests"]["waiting_for_space"] = cache.context().deferred.count();
  json["latency"] = latency(cache);
  json["events"] = shared(cache.context().counters);
  return json.dump();
}

}  // namespace pcache
