// SPDX-License-Identifier: GPL-2.0-or-later
// Reads of mapped pmem that survive a bad page: poison, or a file truncated under the mapping,
// raises SIGBUS, and checked_copy() then returns false.
//
// Invariants
// - A SIGBUS that does not come from checked_copy() or a store to pmem (may_fault.h) goes to the
//   earlier handler (or ends the process, as it would without ours).
// - The handler looks only at the faulting instruction. Nothing is thread-local or set up around a
//   copy, so a copy costs what memcpy() costs.
//
// A SIGBUS handler that the program installs later replaces ours, and must pass on what is not its
// own. In a thread that blocks SIGBUS a bad page ends the process (the kernel's rule).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/check.h"

namespace pcache {

// How far ahead of the copy the source is prefetched.
inline constexpr size_t kCopyAheadBytes = 1024;

// Installs the SIGBUS handler; idempotent, thread-safe. Must run before checked_copy().
void install_checked_copy_handler();

namespace checked_copy_impl {
// Written before the handler can run, read-only afterwards.
extern int (*g_copy)(void*, const void*, size_t);
}  // namespace checked_copy_impl

// Copies between ranges that do not overlap; any thread. False: the source could not be read, or
// the destination not written (a part may have been). Sanitizers do not see the accesses, as the
// copy is assembly.
[[nodiscard]] inline bool checked_copy(void* dst, const void* src, size_t len_bytes) {
  PCACHE_DCHECK(reinterpret_cast<uintptr_t>(dst) + len_bytes <= reinterpret_cast<uintptr_t>(src) ||
                reinterpret_cast<uintptr_t>(src) + len_bytes <= reinterpret_cast<uintptr_t>(dst));
  return checked_copy_impl::g_copy(dst, src, len_bytes) != 0;
}

}  // namespace pcache
