// SPDX-License-Identifier: GPL-2.0-or-later
// The status of a cache, as the kernel target's line and as JSON.
#pragma once

#include <string>

#include "cache/cache.h"

namespace pcache {

// "0 SECTORS pcache SB_FLAGS SEG_TOTAL CACHE_SEGS SEGS_USED GC_PERCENT CACHE_FLAGS KEY_HEAD
// DIRTY_TAIL KEY_TAIL", flags in hexadecimal, positions as segment:offset.
std::string status_line(Cache& cache);

// What Cache::reset_counters() keeps.
std::shared_ptr<const CounterBase> count_now(Cache& cache);

// One JSON object; every size in bytes. The field names are part of the interface.
std::string status_json(Cache& cache);

// Every JSON status has these: `name` in the object `object`, or at the top if that is "".
// status.cc has the table; the counters' tables are beside their structs.
enum class StatusKind { kState, kCounter, kLatency };  // kCounter: only grows, until it is reset
struct StatusField {
  const char *object, *name, *text;
  StatusKind kind;
};
size_t status_field_count();
const StatusField& status_field(size_t index);

}  // namespace pcache
