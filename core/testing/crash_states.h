// SPDX-License-Identifier: GPL-2.0-or-later
// What a crash can leave of a journal of stores and fences: everything before some fence, and of
// the stores between that fence and the next any subset. Short stores (headers, records) are torn
// into 8-byte words, the unit that the CPU writes as a whole.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "testing/memory_pmem.h"

namespace pcache {

struct CrashOptions {
  size_t tear_up_to_bytes = 24;  // longer stores are there or not
  size_t exhaustive_up_to = 10;  // so many pieces between two fences: all subsets; more: some
  size_t samples = 100;          // random subsets then, besides all prefixes
  uint64_t seed = 1;
};

using CrashVisit = std::function<void(std::span<const KeptStore> kept, const std::string& what)>;

// Of the stores of one thread. `what` names the state in a failure's message.
void for_each_crash_state(const Journal& journal, const CrashOptions& options,
                          const CrashVisit& visit);

// The first event at or behind `from` that stores to `at`; journal.size() when there is none.
size_t find_store(const Journal& journal, MediaOff at, size_t from = 0);
// Whether all that was stored is durable at its end.
bool all_durable(const Journal& journal);
size_t count_fences(const Journal& journal, size_t from = 0, size_t end = SIZE_MAX);

}  // namespace pcache
