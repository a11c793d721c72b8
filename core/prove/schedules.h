// SPDX-License-Identifier: GPL-2.0-or-later
// Schedules: readers, writers, fills, writeback and reclaim at the same time, on threads of their
// own, with yields and a backing device whose requests complete late and out of order by a seed.
// Then the power goes, at many points.
//
// The threads are real, so a seed gives the same requests and delays, not the same interleaving.
#pragma once

#include "prove/judge.h"

namespace pcache {

// Throws Failure.
void run_schedule(Base& base, uint64_t seed, Totals* totals);

}  // namespace pcache
