// SPDX-License-Identifier: GPL-2.0-or-later
// What every request needs of the cache it belongs to, and the counters it leaves behind.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/counter.h"
#include "base/histogram.h"
#include "parts/parts.h"
#include "request/deferred.h"
#include "request/pace.h"
#include "segment/data_head.h"

namespace pcache {

// Events of the whole cache that are rare, or that any thread may count.
#define PCACHE_SHARED_COUNTERS(X)                                                            \
  X(fills, "fills", "gaps read from the backing device")                                     \
  X(fill_bytes, "fill_bytes", "of them")                                                     \
  X(fill_joins, "fill_joins", "reads that waited for another's fill")                        \
  X(fills_uncached, "fills_uncached", "read, but no space to keep it")                       \
  X(clean_dropped, "bad_clean_dropped", "damaged clean extents, read from the device again") \
  X(dirty_bad, "bad_dirty_reads", "reads refused because dirty data is damaged")             \
  X(backing_errors, "backing_errors", "reads of the backing device that failed")             \
  X(waits, "waits_on_full", "requests that had to wait for space")
struct SharedCounters {
  PCACHE_SHARED_COUNTERS(PCACHE_COUNTER_MEMBER)
};
inline constexpr auto kSharedCounters =
    PCACHE_COUNTER_TABLE(SharedCounters, PCACHE_SHARED_COUNTERS);

// What a request was, for its latency. Those that complete at once are timed one in kSampling.
enum class LatencyClass : uint8_t { kReadHit, kReadMiss, kWrite, kWriteFua, kWriteWaited, kFlush };
inline constexpr struct {
  const char *name, *text;
  bool is_sampled;
} kLatencyNames[] = {
    {"read_hit", "READs that completed at once", true},
    {"read_miss", "READs that waited for the backing device", false},
    {"write", "WRITEs that completed at once", true},
    {"write_fua", "WRITEs with FUA that completed at once", true},
    {"write_waited", "WRITEs that waited for space", false},
    {"flush", "FLUSHes", true},
};
inline constexpr size_t kLatencyClasses = std::size(kLatencyNames);
inline constexpr uint32_t kSampling = 64;

// Each queue's own; written by its thread, read by anyone.
#define PCACHE_QUEUE_COUNTERS(X)                                         \
  X(writes, "writes", "WRITEs")                                          \
  X(write_bytes, "write_bytes", "of them")                               \
  X(reads, "reads", "READs")                                             \
  X(read_bytes, "read_bytes", "of them")                                 \
  X(read_hits, "read_hits", "READs that were cached")                    \
  X(read_partial, "read_partial_hits", "READs that were cached in part") \
  X(read_misses, "read_misses", "READs of which nothing was cached")     \
  X(flushes, "flushes", "FLUSHes")                                       \
  X(fua, "fua_writes", "WRITEs with FUA")                                \
  X(errors, "errors", "requests that failed")
struct alignas(64) QueueCounters {
  PCACHE_QUEUE_COUNTERS(PCACHE_COUNTER_MEMBER)
  std::array<Histogram, kLatencyClasses> latency;
};
inline constexpr auto kQueueCounters = PCACHE_COUNTER_TABLE(QueueCounters, PCACHE_QUEUE_COUNTERS);

struct RequestContext : Parts {
  explicit RequestContext(const Parts& parts) : Parts(parts) {}

  std::vector<std::unique_ptr<DataHead>> heads;
  SharedCounters counters;
  Pace pace;
  Deferred deferred{*this};

  // Data that a FLUSH had promised is not safe in pmem any more: the next FLUSH fails, once.
  void data_lost(int error) { lost_.store(error, std::memory_order_relaxed); }
  // A positive errno, or 0.
  int take_lost() {
    return lost_.load(std::memory_order_relaxed) == 0
               ? 0
               : lost_.exchange(0, std::memory_order_relaxed);
  }

  // A store to a place in `seg` was lost: no key will name it, and no more of its segment is handed
  // out.
  [[gnu::cold, gnu::noinline]] void give_up_place(DataHead& head, SegId seg) {
    segments.retire(seg);
    head.leave(seg);
    segments.drop_refs(seg);
  }

  // The part of a range that one key may cover: to its 4 MiB boundary, no longer than an extent may
  // be; what is longer is cut where pages end.
  uint32_t key_len(uint64_t off, uint64_t len) const {
    const uint64_t to_boundary = kRangeBytes - off % kRangeBytes;
    const uint64_t n = len < to_boundary ? len : to_boundary;
    return static_cast<uint32_t>(n <= max_extent_bytes ? n
                                                       : max_extent_bytes - off % max_extent_bytes);
  }
  bool is_one_key(uint64_t off, uint64_t len) const {
    return off % kRangeBytes + len <= kRangeBytes && len <= max_extent_bytes;
  }
  // Of data in the segment's present life, `gen`.
  media::Key make_key(Extent extent, CachePos pos, uint64_t gen, bool clean, uint32_t crc) const {
    media::Key key{};
    key.off = extent.off;
    key.len = static_cast<uint32_t>(extent.len);
    key.flags = clean ? media::kKeyClean : 0;
    key.cache_seg_id = pos.seg.v;
    key.cache_seg_off = pos.off;
    key.seg_gen = gen;
    key.data_crc = crc;
    return key;
  }

 private:
  std::atomic<int> lost_{0};
};

}  // namespace pcache
