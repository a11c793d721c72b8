// SPDX-License-Identifier: GPL-2.0-or-later
// The states that a crash can leave of the stores to a MemoryPmem: those of PowerLoss, as lists of
// the stores to keep.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "testing/memory_pmem.h"
#include "testing/power_loss.h"

namespace pcache {

using CrashOptions = PowerLoss::Options;
using CrashVisit = std::function<void(std::span<const KeptStore> kept, const std::string& what)>;

// For the stores of one thread. `what` names the state in a failure's message.
void for_each_crash_state(const Journal& journal, const CrashOptions& options,
                          const CrashVisit& visit);

// A process does the events of `journal`, which are of `before` since its checkpoint, and is killed
// in front of each in turn, and at their end. `next` is what another process then does with what
// the first has left; `visit` gets the states that a later crash can leave.
using KilledVisit = std::function<void(MemoryPmem& image, const std::string& what)>;
void for_each_killed_process(const MemoryPmem& before, const Journal& journal,
                             const CrashOptions& options, const std::function<void(Pmem&)>& next,
                             const KilledVisit& visit);

// The first event at or behind `from` that stores to `at`; journal.size(): there is none.
size_t find_store(const Journal& journal, MediaOff at, size_t from = 0);
// Whether all stores are durable at the journal's end.
bool all_durable(const Journal& journal);
size_t count_fences(const Journal& journal, size_t from = 0, size_t end = SIZE_MAX);

}  // namespace pcache
