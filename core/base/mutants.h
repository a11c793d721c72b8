// SPDX-License-Identifier: GPL-2.0-or-later
// Mutants: the known defects of this design, each fence and each flush left out, to be switched on
// one at a time so that the tests can show that they would notice. Only in the build for
// scripts/prove (PCACHE_MUTANTS); in every other build all of this is constant and leaves no code.
//
// PCACHE_MUTANT in the environment says which:
//   hazard:N     defect N of docs/hazards.md
//   fence:SITE   the fence at SITE ("keylog/key_log.cc:89") does nothing
//   flush:SITE   what is stored at SITE is never flushed: it stays in the CPU's cache
#pragma once

#include <cstdint>

namespace pcache {

// By its number in docs/hazards.md; those of cost (22 to 25) have none.
enum class Hazard : uint8_t {
  kStaleKset = 1,
  kNewestReplicaOverwritten = 2,
  kReplicaIndexByStructSize = 3,
  kDirtyTailAheadOfDisk = 4,
  kCrcBeforeGeneration = 5,
  kFuaForgotten = 6,
  kFillOverNewer = 7,
  kReuseBeforeDurable = 8,
  kNoLogReserve = 9,
  kNobodyWakes = 10,
  kLastInFirstOut = 11,
  kRetryWithoutDelay = 12,
  kMediaNumbersTrusted = 13,
  kDeadKeyUsed = 14,
  kReadPastSegment = 15,
  kOptionTruncated = 16,
  kMediaErrorIsClean = 17,
  kReadsNotVerified = 18,
  kHeaderBytesLeft = 19,
  kNoIdentity = 20,
  kFormattedAgain = 21,
  kDeadKeyReferences = 26,
  kTrimmedTooEarly = 27,
  kLastFlushIgnored = 28,
  // A second and third form: ten times the number, and one, two.
  kBatchNotWaitedFor = 41,
  kPreflushForgotten = 61,
  kPreflushDropsData = 62,
  kFreedSpaceWakesNobody = 101,
  kLogCycle = 131,
  kLostStoreIgnored = 171,
  kRetiredHandedOut = 172,
  kCutExtentsNotVerified = 181,
};

// A place in the code that stores to media or fences; a function that does it for several callers
// takes theirs. (clang 14 has no std::source_location.)
struct CodeSite {
  const char* file;
  int line;
  static constexpr CodeSite current(const char* file = __builtin_FILE(),
                                    int line = __builtin_LINE()) {
    return {file, line};
  }
};

#ifdef PCACHE_MUTANTS

bool hazard(Hazard which);

namespace mutants {

// Each notes that the site was reached. True: it is the mutant.
bool fence_left_out(const CodeSite& site);
bool flush_left_out(const CodeSite& site);

// Whether this thread is in a store whose flush is left out; for the simulators.
bool unflushed();
class Unflushed {
 public:
  Unflushed();
  ~Unflushed();
  Unflushed(const Unflushed&) = delete;
  Unflushed& operator=(const Unflushed&) = delete;
};

}  // namespace mutants

#else

constexpr bool hazard(Hazard) { return false; }

#endif

}  // namespace pcache
