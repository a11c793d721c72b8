// SPDX-License-Identifier: GPL-2.0-or-later
// Plan: which measurements are made, in which order. Every case once in each round: what drifts on
// the machine hits all cases alike. Rounds come in pairs: the first in an order of its own, by the
// seed, the second in the reverse of that, so that of two builds each comes first as often.
#pragma once

#include <vector>

#include "sweep/spec.h"

namespace pcache::sweep {

struct Measurement {
  size_t number = 0;  // in the plan
  size_t case_index = 0;
  size_t build = 0;     // of several builds
  uint32_t repeat = 0;  // the round, from 0 on
};

// Cases in which no code of ours runs are the same in every build, and measured once in a round.
// What is left out has its numbers, too, but is not there: the others' are the same everywhere.
std::vector<Measurement> make_plan(const Spec& spec, size_t builds);

}  // namespace pcache::sweep
