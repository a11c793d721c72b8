// SPDX-License-Identifier: GPL-2.0-or-later
// What two simple policies would have made of the same requests: beside the measured hit ratio it
// says whether a cache does what its policy promises, of any trace.
#pragma once

#include <cstdint>
#include <string>

#include "sweep/trace_layout.h"

namespace pcache::sweep {

// Parts of all accesses that find their block cached. An access is a block of a read or of a write;
// either brings it in.
struct TraceModel {
  double fifo = 0, lru = 0;
};

// `capacity`: in blocks, at least 1.
TraceModel model_of(const TraceLayout& layout, uint64_t capacity);

}  // namespace pcache::sweep
