// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/status.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include "cache/json.h"

namespace pcache {

namespace {

std::string position(CachePos pos) {
  return std::to_string(pos.seg.v) + ":" + std::to_string(pos.off);
}

// The sources of the fields, read once for each status.
struct View {
  explicit View(Cache& of)
      : cache(of),
        segs(of.segments().counts()),
        log(of.log().counters()),
        dirty(of.dirty()),
        worker(of.worker().state()),
        link(of.backing().link()) {
    of.queues().each_counters([&](const QueueCounters& counters) {
      for (const auto& counter : kQueueCounters)
        (requests.*counter.member).add((counters.*counter.member).load());
      for (size_t i = 0; i < kLatencyClasses; i++) requests.latency[i].merge(counters.latency[i]);
    });
  }
  Cache& cache;
  const SegmentCounts segs;
  const KeyLog::Counters log;
  const Cache::Dirty dirty;
  const Worker::State worker;
  const std::optional<BlockLink> link;
  std::chrono::system_clock::time_point counted_since;
  QueueCounters requests;  // of all queues
};

uint64_t unix_ms(std::chrono::system_clock::time_point at) {
  return static_cast<uint64_t>(at.time_since_epoch() / std::chrono::milliseconds(1));
}

struct Field {
  StatusField is;
  std::function<Json(View&)> value;
  std::function<uint64_t(View&)> count;  // of a counter, in place of `value`
};

Json latency_of(const Histogram& h, bool sampled) {
  Json buckets = Json::array();
  for (size_t b = 0; b < Histogram::kBuckets; b++)
    if (h.count(b) > 0) buckets.push_back({Histogram::upper_ns(b), h.count(b)});
  return {{"count", h.count()},
          {"timed_one_in", sampled ? kSampling : 1},
          {"p50_ns", h.quantile_ns(0.5)},
          {"p99_ns", h.quantile_ns(0.99)},
          {"p999_ns", h.quantile_ns(0.999)},
          {"max_ns", h.max_ns()},
          {"buckets", buckets}};
}

// ---- The table: each field once, in the order of the status ----

class Fields : public std::vector<Field> {
 public:
  // What holds now, or was so at attach.
  void add(const char* object, const char* name, const char* text,
           std::function<Json(View&)> value) {
    push_back({{object, name, text, StatusKind::kState}, std::move(value), nullptr});
  }
  void count(const char* object, const char* name, const char* text,
             std::function<uint64_t(View&)> value) {
    push_back({{object, name, text, StatusKind::kCounter}, nullptr, std::move(value)});
  }
};

void add_devices(Fields* fields) {
  fields->add("", "version", "of this status's format", [](View&) { return Json(1); });
  fields->add("time", "attached_unix_ms", "when the cache was attached",
              [](View& v) { return Json(unix_ms(v.cache.attached_at())); });
  fields->add("time", "counted_since_unix_ms", "when the counters began: at the attach, or later",
              [](View& v) { return Json(unix_ms(v.counted_since)); });
  fields->add("cache", "pmem_kind", "what the cache device is",
              [](View& v) { return Json(pmem_kind_name(v.cache.pmem().kind())); });
  fields->add("cache", "persist", "the persist method in use",
              [](View& v) { return Json(v.cache.pmem().persist_name()); });
  fields->add("cache", "huge_bytes", "so much of a file in memory was mapped in pages of 2 MiB",
              [](View& v) { return Json(v.cache.pmem().huge_bytes()); });
  fields->add("cache", "readonly", "attached with readonly=1",
              [](View& v) { return Json(v.cache.readonly()); });
  fields->add("cache", "data_crc", "keys carry a CRC of their data",
              [](View& v) { return Json(v.cache.data_crc()); });
  fields->add("cache", "gc_percent",
              "garbage collection starts with so much of the segments in use",
              [](View& v) { return Json(v.cache.gc_percent()); });
  fields->add("cache", "mode", "when a write is acknowledged, and what is cached",
              [](View& v) { return Json(answers_of(v.cache.mode()).name); });
  fields->add("backing", "bytes", "size of the backing device",
              [](View& v) { return Json(v.cache.logical_bytes()); });
  fields->add("backing", "block_size", "alignment of requests, bytes",
              [](View& v) { return Json(v.cache.backing().logical_block_bytes()); });
  fields->add("backing", "io_mode", "how it is driven",
              [](View& v) { return Json(v.cache.backing().io_mode_name()); });
  fields->add("backing", "identity", "what it is recognised by",
              [](View& v) { return Json(v.cache.backing().identity().text); });
  fields->add("backing", "connected", "of a server's: all its connections are up; else null",
              [](View& v) {
                const auto& link = v.link;
                return link ? Json(link->up == link->connections) : Json();
              });
  fields->add("backing", "connections", "of a server's: connections; else 0",
              [](View& v) { return Json(v.link ? v.link->connections : 0); });
  fields->add("backing", "lost_connections", "of a server's: that ended, since the attach; else 0",
              [](View& v) { return Json(v.link ? v.link->lost : 0); });
  fields->add("backing", "waiting_for_server", "requests that wait until a server is back",
              [](View& v) { return Json(v.link ? v.link->waiting : 0); });
  fields->add("backing", "why_not_connected", "a connection of a server's is not up; else empty",
              [](View& v) { return Json(v.link ? v.link->why : std::string()); });
}

void add_segments_and_log(Fields* fields) {
  fields->add("segments", "total", "of 16 MiB", [](View& v) { return Json(v.segs.total); });
  fields->add("segments", "used", "not free",
              [](View& v) { return Json(v.segs.total - v.segs.free); });
  fields->add("segments", "free", "to be written to", [](View& v) { return Json(v.segs.free); });
  fields->add("segments", "log", "with ksets", [](View& v) { return Json(v.segs.log); });
  fields->add("segments", "data", "with data", [](View& v) { return Json(v.segs.data); });
  fields->add("segments", "reserved_for_log", "free, but not for data",
              [](View& v) { return Json(v.segs.log_reserve); });
  fields->add("segments", "retired", "out of use for a bad page, until the next attach",
              [](View& v) { return Json(v.segs.retired); });
  fields->add("media", "bad_pages", "pages of the pmem that cannot be read or written",
              [](View& v) { return Json(v.cache.pmem().bad_pages()); });
  fields->add("media", "log_failed", "the log takes no more keys",
              [](View& v) { return Json(v.cache.log().failed()); });
  fields->add("media", "tails_failed", "the tails cannot be moved any more",
              [](View& v) { return Json(v.cache.tails().failed()); });
  fields->add("log", "key_head", "where the next kset goes, segment:offset",
              [](View& v) { return Json(position(v.cache.log().head())); });
  fields->add("log", "dirty_tail", "what is before has been written back",
              [](View& v) { return Json(position(v.cache.tails().dirty_tail())); });
  fields->add("log", "key_tail", "where the log begins",
              [](View& v) { return Json(position(v.cache.tails().key_tail())); });
  fields->count("log", "ksets", "appended", [](View& v) { return v.log.ksets; });
  fields->count("log", "groups", "of ksets, appended together",
                [](View& v) { return v.log.groups; });
  fields->count("log", "keys", "appended", [](View& v) { return v.log.keys; });
  fields->count("log", "rolls", "times that the log went on in another segment",
                [](View& v) { return v.log.rolls; });
  fields->add("log", "flush_delay_ms", "after which an open kset is closed",
              [](View& v) { return Json(v.cache.worker().flush_delay().count()); });
  fields->add("log", "open_keys", "in ksets that are not closed yet",
              [](View& v) { return Json(v.cache.stripes().open_keys()); });
}

void add_background(Fields* fields) {
  fields->add("dirty", "ksets", "to be written back", [](View& v) { return Json(v.dirty.ksets); });
  fields->add("dirty", "bytes", "of their keys, also of what later ones supersede",
              [](View& v) { return Json(v.dirty.appended_bytes); });
  fields->add("dirty", "live_bytes", "newer than on the backing device, each byte once",
              [](View& v) { return Json(v.dirty.live_bytes); });
  fields->add("writeback", "backing_order", "what the backing device alone holds meanwhile",
              [](View& v) { return Json(v.cache.writeback().strict() ? "strict" : "relaxed"); });
  fields->add("writeback", "drain", "when the cache is closed: option drain",
              [](View& v) { return Json(v.cache.drains_at_close()); });
  fields->add("writeback", "dirty_high_percent", "of the cache: more may not be dirty",
              [](View& v) { return Json(v.cache.worker().dirty_limits().high_percent); });
  fields->add("writeback", "dirty_low_percent", "of the cache: until so much is left",
              [](View& v) { return Json(v.cache.worker().dirty_limits().low_percent); });
  fields->add("writeback", "cleaning", "until dirty_low_percent are left",
              [](View& v) { return Json(v.cache.worker().cleaning()); });
  fields->add("writeback", "bytes_per_second", "at most, while space is not short; 0: no limit",
              [](View& v) { return Json(v.cache.worker().dirty_limits().bytes_per_second); });
  fields->add("writeback", "interval_ms", "between two runs while there is time",
              [](View& v) { return Json(v.cache.worker().writeback_interval().count()); });
  fields->add("writeback", "state", "ok or failing",
              [](View& v) { return Json(v.worker.failing ? "failing" : "ok"); });
  fields->add("writeback", "last_error", "why it is failing",
              [](View& v) { return Json(v.worker.last_error); });
  fields->add("writeback", "backoff_ms", "until it is tried again",
              [](View& v) { return Json(v.worker.backoff.count()); });
  for (const auto& counter : kWritebackCounters)
    fields->count("writeback", counter.name, counter.text,
                  [=](View& v) { return (v.cache.writeback().counters().*counter.member).load(); });
  fields->add("writeback", "bad_extents", "known to be damaged, as of the last step",
              [](View& v) { return Json(v.cache.writeback().counters().bad_keys.load()); });
  fields->count("writeback", "passed_bytes", "of keys that dirty_tail has passed, as appended",
                [](View& v) { return v.cache.writeback().passed_dirty_bytes(); });
  for (const auto& counter : kMoverCounters)
    fields->count("writeback", counter.name, counter.text,
                  [=](View& v) { return (v.cache.writeback().moved().*counter.member).load(); });
  fields->add("reclaim", "state", "ok, or why it cannot go on", [](View& v) {
    const char* const fault = v.cache.worker().reclaim_fault();
    return Json(fault ? fault : "ok");
  });
  for (const auto& counter : kReclaimCounters)
    fields->count("reclaim", counter.name, counter.text,
                  [=](View& v) { return (v.cache.reclaim().counters().*counter.member).load(); });
}

// Of a front; else there is no other side.
void add_sides(Fields* fields) {
  fields->add("sides", "role", "both, or front: then pcached writes back",
              [](View& v) { return Json(v.cache.doorbell() ? "front" : "both"); });
  fields->add("sides", "backend_there", "a backend has the cache device open, too; else null",
              [](View& v) {
                return v.cache.doorbell() ? Json(v.cache.pmem().backend_is_there()) : Json();
              });
  fields->add("sides", "backend_heard", "by the doorbell, in the last seconds; else null",
              [](View& v) {
                const Doorbell* const bell = v.cache.doorbell();
                return bell ? Json(bell->speaks()) : Json();
              });
  fields->add("sides", "backend_heard_unix_ms", "when it was heard last, as it says; 0: never",
              [](View& v) {
                const Doorbell* const bell = v.cache.doorbell();
                return Json(bell ? bell->last_beat() : uint64_t{0});
              });
  fields->count("sides", "rings", "of the doorbell, that the backend was listening for",
                [](View& v) {
                  const Doorbell* const bell = v.cache.doorbell();
                  return bell ? bell->rings() : uint64_t{0};
                });
}

void add_policy(Fields* fields) {
  fields->add("policy", "kind", "the option policy",
              [](View& v) { return Json(policy::name_of(v.cache.retention().kind())); });
  fields->add("policy", "seq_cutoff", "0: none",
              [](View& v) { return Json(v.cache.seq_cutoff_bytes()); });
  fields->add("policy", "read_ahead", "0: none",
              [](View& v) { return Json(v.cache.read_ahead_bytes()); });
  fields->add("policy", "rule", "by which data stays in the cache, now",
              [](View& v) { return Json(policy::name_of(v.cache.retention().rule())); });
  fields->count("policy", "changes", "of the rule",
                [](View& v) { return uint64_t{v.cache.retention().changes()}; });
  fields->count("policy", "kept_keys", "appended for clean data that stayed", [](View& v) {
    const Mover::Counters* const kept = v.cache.reclaim().kept();
    return kept ? kept->moved_keys.load() : uint64_t{0};
  });
  fields->count("policy", "kept_bytes", "of them, copied to a new place", [](View& v) {
    const Mover::Counters* const kept = v.cache.reclaim().kept();
    return kept ? kept->moved_bytes.load() : uint64_t{0};
  });
}

void add_attach(Fields* fields) {
  fields->add("replay", "ksets", "read at attach",
              [](View& v) { return Json(v.cache.replayed().ksets); });
  fields->add("replay", "keys", "in them", [](View& v) { return Json(v.cache.replayed().keys); });
  fields->add("replay", "dead_keys", "whose segment has been used again",
              [](View& v) { return Json(v.cache.replayed().dead_keys); });
  fields->add("replay", "dirty_keys", "to be written back",
              [](View& v) { return Json(v.cache.replayed().dirty_keys); });
  fields->add("replay", "dirty_bytes", "of the dirty keys",
              [](View& v) { return Json(v.cache.replayed().dirty_bytes); });
  fields->add("replay", "torn_tail", "the log ended in half a kset",
              [](View& v) { return Json(v.cache.replayed().torn_tail); });
  fields->add("replay", "data_crc_check", "when the data found was checked: attach, read or none",
              [](View& v) {
                if (!v.cache.data_crc()) return Json("none");
                return Json(v.cache.checked_at_attach() ? "attach" : "read");
              });
  fields->add("replay", "bad_clean_dropped", "clean extents with damaged data",
              [](View& v) { return Json(v.cache.verified().clean_dropped); });
  fields->add("replay", "bad_dirty_extents", "dirty extents with damaged data",
              [](View& v) { return Json(v.cache.verified().dirty_bad); });
  fields->add("index", "mapped_bytes", "cached",
              [](View& v) { return Json(v.cache.index().mapped_bytes()); });
  fields->add("index", "dirty_bytes", "of these, not on the backing device yet; zeros, too",
              [](View& v) { return Json(v.cache.index().dirty_bytes()); });
  fields->add("index", "memory_bytes", "DRAM of the index",
              [](View& v) { return Json(v.cache.index().memory_bytes()); });
}

void add_requests(Fields* fields) {
  for (const auto& counter : kQueueCounters)
    fields->count("requests", counter.name, counter.text,
                  [=](View& v) { return (v.requests.*counter.member).load(); });
  fields->add("requests", "waiting_for_space", "now",
              [](View& v) { return Json(v.cache.requests().deferred().count()); });
  fields->add("requests", "waiting_for_device", "now, to be acknowledged",
              [](View& v) { return Json(v.cache.requests().acks().count()); });
  for (size_t i = 0; i < kLatencyClasses; i++)
    fields->push_back(
        {{"latency", kLatencyNames[i].name, kLatencyNames[i].text, StatusKind::kLatency},
         [=](View& v) { return latency_of(v.requests.latency[i], kLatencyNames[i].is_sampled); },
         nullptr});
  for (const auto& counter : kSharedCounters)
    fields->count("events", counter.name, counter.text,
                  [=](View& v) { return (v.cache.requests().counters().*counter.member).load(); });
}

Fields all_fields() {
  Fields fields;
  add_devices(&fields);
  add_segments_and_log(&fields);
  add_background(&fields);
  add_sides(&fields);
  add_policy(&fields);
  add_attach(&fields);
  add_requests(&fields);
  return fields;
}

// Made once and never freed: a status may be asked for while the process ends.
const Fields& fields() {
  static const Fields& all = *new Fields(all_fields());
  return all;
}

}  // namespace

std::string status_line(Cache& cache) {
  const SegmentCounts segs = cache.segments().counts();
  const CacheInfoFields info = cache.info();
  char line[256];
  snprintf(line, sizeof line, "0 %llu pcache %x %u %u %u %u %x %s %s %s",
           static_cast<unsigned long long>(cache.logical_bytes() / kSectorBytes), cache.sb_flags(),
           cache.seg_num(), segs.total, segs.total - segs.free, info.gc_percent,
           make_cache_info(info).flags, position(cache.log().head()).c_str(),
           position(cache.tails().dirty_tail()).c_str(),
           position(cache.tails().key_tail()).c_str());
  PCACHE_DCHECK(strlen(line) + 1 < sizeof line);  // all of it is there
  return line;
}

size_t status_field_count() { return fields().size(); }

const StatusField& status_field(size_t index) {
  PCACHE_CHECK(index < fields().size());
  return fields()[index].is;
}

std::shared_ptr<const CounterBase> count_now(Cache& cache) {
  View view(cache);
  auto base = std::make_shared<CounterBase>();
  base->since = std::chrono::system_clock::now();
  for (const Field& field : fields()) base->counts.push_back(field.count ? field.count(view) : 0);
  for (size_t i = 0; i < kLatencyClasses; i++) base->latency[i].merge(view.requests.latency[i]);
  return base;
}

std::string status_json(Cache& cache) {
  const std::shared_ptr<const CounterBase> base = cache.counter_base();
  View view(cache);
  view.counted_since = base ? base->since : cache.attached_at();
  for (size_t i = 0; base && i < kLatencyClasses; i++)
    view.requests.latency[i].subtract(base->latency[i]);
  Json json;
  for (size_t i = 0; i < fields().size(); i++) {
    const Field& field = fields()[i];
    Json& value = (*field.is.object ? json[field.is.object] : json)[field.is.name];
    if (!field.count) {
      value = field.value(view);
      continue;
    }
    const uint64_t all = field.count(view);
    value = Json(all - std::min(all, base ? base->counts[i] : 0));
  }
  // Not in every status: with persist=auto, what was measured.
  if (const auto& calibration = cache.calibration())
    for (const Calibration::Method& method : calibration->measured)
      for (size_t c = 0; c < Calibration::kClasses; c++)
        json["cache"]["persist_ns"][method.ops->name][std::to_string(Calibration::kSizes[c])] =
            method.ns[c];
  return json.dump();
}

}  // namespace pcache
