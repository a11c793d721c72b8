// SPDX-License-Identifier: GPL-2.0-or-later
// Persist methods: how bytes get from the CPU into the persistence domain.
//
// Invariants
// - copy() makes the bytes durable after the next fence() of the SAME thread, not before;
//   until then any subset of the touched 8-byte words may be on the media.
// - copy() may stream past the cache. Other threads see the bytes after this thread's fence() or
//   next locked instruction (unlocking a Mutex is one); a plain release store does NOT order them.
// - Two copies to the same place need a fence between them: if one streams and the other does not,
//   they may reach the media in any order.
// - Lines that a copy covers only in part keep their other bytes.
// - fence_threads() of another thread replaces a thread's own fence: it makes the bytes of all
//   copies that had returned durable, and visible to its caller.
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
  // As flush_lines(), for test doubles; nullptr: flush_lines().
  void (*flush)(void* ctx, const std::byte* at, size_t len_bytes) = nullptr;
};

// All methods compiled in: flushcache (non-temporal stores), clflushopt, clwb, movdir64b.
std::span<const PersistOps> persist_methods();

// The variants of flushcache, best first; the CPU's abilities decide. Tests run all of them.
std::span<const PersistOps> flushcache_variants();

// Writes the lines of a range back from the CPU's caches, whoever stored to them; durable after the
// next fence. It stores nothing.
void flush_lines(const std::byte* at, size_t len_bytes);

// Leaves the choice to a measurement (calibration.h); before it this is flushcache.
inline constexpr const char* kPersistAuto = "auto";

// By name, or kPersistAuto. EINVAL: the name is unknown (lists the known ones). ENOTSUP: this CPU
// lacks the method (names one that it has).
Result<const PersistOps*> find_persist_method(std::string_view name);

}  // namespace pcache
