// SPDX-License-Identifier: GPL-2.0-or-later
// Persist methods: how bytes get from the CPU into the persistence domain.
//
// Invariants
// - copy() makes the bytes durable after the next fence() of the SAME thread, not before;
//   until then any subset of the touched 8-byte words may be on the media.
// - copy() may stream past the cache. Other threads see the bytes after this thread's fence() or
//   its next locked instruction (unlocking a Mutex is one); a plain release store does NOT order
//   them.
// - Two copies to the same place need a fence between them: one may stream and the other not, and
//   in which order they reach the media is then not said.
// - Lines only partly covered by a copy keep their other bytes.
// - A thread that has no fence of its own is served by another one's fence_threads(): then the
//   bytes of all threads whose copy() had returned are durable, and seen by the one that called it.
// - The tables are static and immutable; the functions may be called from any thread.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "base/result.h"

namespace pcache {

struct PersistOps {
  const char* name;
  // `ctx` is for test doubles (a simulator that watches every store); the real methods ignore it.
  void (*copy)(void* ctx, std::byte* dst, const void* src, size_t len_bytes);
  void (*fence)(void* ctx);
  bool (*supported)();
  // A fence in every other thread of the process; nullptr: process_barrier().
  void (*fence_threads)(void* ctx) = nullptr;
};

// All methods compiled in: flushcache (non-temporal stores), clflushopt, clwb, movdir64b.
std::span<const PersistOps> persist_methods();

// What flushcache is chosen from by the CPU's abilities, best first; for the tests, which run all.
std::span<const PersistOps> flushcache_variants();

// The name that leaves the choice to a measurement (calibration.h); until then it is flushcache.
inline constexpr const char* kPersistAuto = "auto";

// By name, or kPersistAuto. EINVAL for an unknown name (lists the known ones), ENOTSUP when
// this CPU lacks it (names one that it has).
Result<const PersistOps*> find_persist_method(std::string_view name);

}  // namespace pcache
