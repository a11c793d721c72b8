// SPDX-License-Identifier: GPL-2.0-or-later
// Mutants: the known hazards of this design, and each fence and flush left out. scripts/prove
// switches on one at a time, to show that a test notices it. They are only in its build
// (PCACHE_MUTANTS): in every other build all of this is constant and leaves no code.
//
// PCACHE_MUTANT in the environment says which:
//   hazard:NAME  the hazard NAME: MUTANTS.md beside this file says what goes wrong
//   fence:SITE   the fence at SITE ("keylog/key_log.cc:89") does nothing
//   flush:SITE   what is stored at SITE is never flushed: it stays in the CPU's cache
#pragma once

#include <cstdint>

namespace pcache {

// kStaleKset is hazard:stale-kset. MUTANTS.md describes each, and names the tests that notice it.
enum class Hazard : uint8_t {
  kStaleKset,
  kNewestReplicaOverwritten,
  kReplicaIndexByStructSize,
  kDirtyTailAheadOfDisk,
  kBatchNotWaitedFor,
  kCrcBeforeGeneration,
  kFuaForgotten,
  kPreflushForgotten,
  kPreflushDropsData,
  kFillOverNewer,
  kReuseBeforeDurable,
  kNoLogReserve,
  kNobodyWakes,
  kFreedSpaceWakesNobody,
  kLastInFirstOut,
  kRetryWithoutDelay,
  kMediaNumbersTrusted,
  kLogCycle,
  kDeadKeyUsed,
  kReadPastSegment,
  kOptionTruncated,
  kMediaErrorIsClean,
  kLostStoreIgnored,
  kRetiredHandedOut,
  kReadsNotVerified,
  kCutExtentsNotVerified,
  kHeaderBytesLeft,
  kNoIdentity,
  kIdentityInPlace,
  kFormattedAgain,
  kDeadKeyReferences,
  kTrimmedTooEarly,
  kLastFlushIgnored,
  kSupersederNotDurable,
  kSupersededAcrossABarrier,
  kMovedOverNewer,
  kFailedMovePassed,
  kMovedIsClean,
  kFreedBeforeMoved,
  kKeptWithoutEnd,
  kZerosComeBack,
  kZerosNotFlushed,
  kAcknowledgedBeforeDevice,
  kSupersededNotOnDevice,
  kFrontMovesDirtyTail,
  kBackendMovesKeyTail,
  kForeignDirtyTail,
  kBackendSkipsFlush,
  kGenerationsNotReloaded,
  kGrownBeforeIdentity,
  kGrownBeforeCounted,
  kBarrierNotInLog,
  kPassedBeforeMoved,
  kStalePassTaken,
  kSetBackTailPassed,
};

// A place in the code that stores to media or fences. A function that does this for several callers
// takes the place from its caller. (clang 14 has no std::source_location.)
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

// Each notes that the site was reached. True: this site is the mutant.
bool fence_left_out(const CodeSite& site);
bool flush_left_out(const CodeSite& site);

// Whether this thread is in a store whose flush is left out. The simulators ask.
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
