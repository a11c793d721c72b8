// SPDX-License-Identifier: GPL-2.0-or-later
// Asking the CPU for memory ahead of its use. Never faults.
//
// Not __builtin_prefetch() alone: gcc takes a function that does nothing else for one without
// effect, and drops its calls (seen with 12.2; tests/test_machine_code.py checks this).
#pragma once

namespace pcache {

// For memory that is read once: bypasses the outer caches.
[[gnu::always_inline]] inline void prefetch_once(const void* at) {
  __builtin_prefetch(at, 0, 0);
  asm volatile("");
}

// For memory that is about to be changed.
[[gnu::always_inline]] inline void prefetch_to_change(const void* at) {
  __builtin_prefetch(at, 1);
  asm volatile("");
}

}  // namespace pcache
