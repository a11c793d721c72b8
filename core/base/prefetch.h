// SPDX-License-Identifier: GPL-2.0-or-later
// Asking the CPU for memory ahead of its use. Never faults.
//
// Not __builtin_prefetch() alone: gcc takes a function that does nothing else for one without
// effect, and drops calls of it (seen with 12.2; tests/test_machine_code.py looks).
#pragma once

namespace pcache {

// To be read once: it goes past the outer caches.
[[gnu::always_inline]] inline void prefetch_once(const void* at) {
  __builtin_prefetch(at, 0, 0);
  asm volatile("");
}

// To be changed.
[[gnu::always_inline]] inline void prefetch_to_change(const void* at) {
  __builtin_prefetch(at, 1);
  asm volatile("");
}

}  // namespace pcache
