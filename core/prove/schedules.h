// SPDX-License-Identifier: GPL-2.0-or-later
// Schedules: readers, writers, fills, writeback and reclaim at the same time, on threads of their
// own. A seed decides when they yield, and how late and in which order the backing device completes
// requests. Then the power fails, at many points.
//
// The threads are real: a seed repeats the requests and delays, not the interleaving.
#pragma once

#include "prove/judge.h"

namespace pcache {

// Throws Failure.
void run_schedule(Base& base, uint64_t seed, Totals* totals);

}  // namespace pcache
