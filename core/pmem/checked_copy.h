// SPDX-License-Identifier: GPL-2.0-or-later
// Reads of mapped pmem that survive a bad page: poison or a file truncated under the mapping
// raises SIGBUS, which becomes `false` here instead of the end of the process.
//
// Invariants
// - A SIGBUS that does not come from checked_copy(), or from a store to pmem (may_fault.h), goes to
//   the handler that was there before ours (or kills the process, as it would have).
// - The handler looks only at the faulting instruction: nothing thread-local, nothing to set up or
//   tear down around a copy, so a copy costs what memcpy() costs.
//
// A SIGBUS handler that the program installs later replaces ours: it must hand on what is not its
// own. A thread that blocks SIGBUS is killed by a bad page (the kernel's rule for blocked faults).
#pragma once

#include <cstddef>

namespace pcache {

// How far ahead of what is copied the source is fetched.
inline constexpr size_t kCopyAheadBytes = 1024;

// Installs the SIGBUS handler; idempotent, thread-safe. Must run before checked_copy().
void install_checked_copy_handler();

namespace checked_copy_impl {
// Written before the handler can run, read-only afterwards.
extern int (*g_copy)(void*, const void*, size_t);
}  // namespace checked_copy_impl

// Copies between ranges that do not overlap; from any thread. False when the source could not be
// read, or the destination not written (part of it may have been). Sanitizers do not see the
// accesses: the copy is assembly.
[[nodiscard]] inline bool checked_copy(void* dst, const void* src, size_t len_bytes) {
  return checked_copy_impl::g_copy(dst, src, len_bytes) != 0;
}

}  // namespace pcache
