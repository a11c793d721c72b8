// SPDX-License-Identifier: GPL-2.0-or-later
// What requests count: events of the whole cache, and of each queue its operations and their
// latency.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "base/counter.h"
#include "base/histogram.h"

namespace pcache {

// Events of the whole cache that are rare, or that any thread may count.
#define PCACHE_SHARED_COUNTERS(X)                                                            \
  X(fills, "fills", "gaps read from the backing device")                                     \
  X(fill_bytes, "fill_bytes", "of them")                                                     \
  X(fill_kept_bytes, "fill_kept_bytes", "of them, that were cached then")                    \
  X(fill_bypassed_bytes, "fill_bypassed_bytes", "of them, that were let pass by the cache")  \
  X(fill_ahead_bytes, "fill_ahead_bytes", "of them, that nobody had asked for yet")          \
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
enum class LatencyClass : uint8_t {
  kReadHit,
  kReadMiss,
  kWrite,
  kWriteFua,
  kWriteWaited,
  kWriteThrough,
  kFlush,
  kZeros,
};
inline constexpr struct {
  const char *name, *text;
  bool is_sampled;
} kLatencyNames[] = {
    {"read_hit", "READs that completed at once", true},
    {"read_miss", "READs that waited for the backing device", false},
    {"write", "WRITEs that completed at once", true},
    {"write_fua", "WRITEs with FUA that completed at once", true},
    {"write_waited", "WRITEs that waited for space", false},
    {"write_through", "WRITEs that waited until the backing device had them", false},
    {"flush", "FLUSHes", true},
    {"zeros", "DISCARDs and WRITE_ZEROES, those that waited, too", false},
};
inline constexpr size_t kLatencyClasses = std::size(kLatencyNames);
static_assert(kLatencyClasses == static_cast<size_t>(LatencyClass::kZeros) + 1);
inline constexpr uint32_t kSampling = 64;

// Whether the next one is timed, after so many before it.
inline bool is_timed(uint64_t before) { return before % kSampling == kSampling - 1; }

inline uint64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(now / std::chrono::nanoseconds(1));
}

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
  X(discards, "discards", "DISCARDs")                                    \
  X(discard_bytes, "discard_bytes", "of them")                           \
  X(zeroes, "write_zeroes", "WRITE_ZEROES")                              \
  X(zeroes_bytes, "write_zeroes_bytes", "of them")                       \
  X(errors, "errors", "requests that failed")
struct alignas(64) QueueCounters {
  PCACHE_QUEUE_COUNTERS(PCACHE_COUNTER_MEMBER)
  std::array<Histogram, kLatencyClasses> latency;

  void note_latency(LatencyClass what, uint64_t since_ns) {
    latency[static_cast<size_t>(what)].add(now_ns() - since_ns);
  }
};
inline constexpr auto kQueueCounters = PCACHE_COUNTER_TABLE(QueueCounters, PCACHE_QUEUE_COUNTERS);

}  // namespace pcache
