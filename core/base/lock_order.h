// SPDX-License-Identifier: GPL-2.0-or-later
// The order of locks. A thread takes a lock only if each lock that it holds has a lower rank.
// Builds without NDEBUG check that before the thread waits for the lock. Other builds compile all
// of this to nothing.
//
// ThreadSanitizer is not told of our locks. Of a lock that it is told of, it takes the order of
// memory for granted; of ours it sees the atomics, and so a wrong memory order in them.
#pragma once

#include <cstdint>

namespace pcache {

// From the outermost to the innermost. Two of one rank are never held together.
enum class LockRank : uint8_t {
  kGrow,       // Cache::grow_mu_: a cache becomes larger
  kWriteback,  // Writeback::mu_: a whole batch, and what it lets in
  kStalled,    // Deferred::run_mu_: stalled writes go on
  kQueues,     // QueueSet::mu_: all rings are polled
  kPath,       // a stripe, a data head, or KeyLog::writer_mu_: one at a time
  kLogQueue,   // KeyLog::queue_mu_, KeyLog::free_mu_
  kSegments,   // SegmentTable::mu_
  kLeaf,       // all others: nothing is locked under them
};

namespace lock_order {

#ifdef NDEBUG
inline void check(LockRank) {}
inline void taken(const void*, LockRank) {}
inline void dropped(const void*) {}
#else
// Before the lock is waited for: ends the process when this thread holds a lock of the same or a
// higher rank. What is only tried, and so cannot wait for ever, is not checked.
void check(LockRank rank);
void taken(const void* lock, LockRank rank);
void dropped(const void* lock);
#endif

}  // namespace lock_order

}  // namespace pcache
