// SPDX-License-Identifier: GPL-2.0-or-later
// The status of a cache, as the kernel target's line and as JSON.
#pragma once

#include <string>

#include "cache/cache.h"

namespace pcache {

// "0 SECTORS pcache SB_FLAGS SEG_TOTAL CACHE_SEGS SEGS_USED GC_PERCENT CACHE_FLAGS KEY_HEAD
// DIRTY_TAIL KEY_TAIL", flags in hexadecimal, positions as segment:offset.
std::string status_line(Cache& cache);

// One JSON object; every size in bytes. Field names are part of the interface.
std::string status_json(Cache& cache);

}  // namespace pcache
