// SPDX-License-Identifier: GPL-2.0-or-later
// Counts instead of times: an operation of the request path, done exactly so many times.
#pragma once

#include <cstdint>
#include <string>

namespace pcache::micro {

// Does it, and prints one line of JSON: line flushes, fences and allocations per operation. What
// depends on the tool that watches (instructions, system calls) is the difference between two runs
// with different `operations`, divided by the difference of those.
void count(const std::string& name, uint64_t operations, const std::string& persist);

// "write_hit/size:4096/crc:0", ...
void print_countable();

}  // namespace pcache::micro
