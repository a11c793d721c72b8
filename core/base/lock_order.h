// SPDX-License-Identifier: GPL-2.0-or-later
// The order of locks. A thread takes a lock only if each lock that it holds has a lower rank.
// Builds without NDEBUG check that. Builds with ThreadSanitizer report each lock to it, because it
// knows pthread mutexes alone. Other builds compile all of this to nothing.
#pragma once

#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#define PCACHE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PCACHE_TSAN 1
#endif
#endif

#ifdef PCACHE_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace pcache {

// From the outermost to the innermost. Two of one rank are never held together.
enum class LockRank : uint8_t {
  kWriteback,  // Writeback::mu_: a whole batch, and what it lets in
  kStalled,    // Deferred::run_mu_: stalled writes go on
  kQueues,     // QueueSet::mu_: all rings are polled
  kPath,       // a stripe, a data head, or KeyLog::writer_mu_: one at a time
  kLogQueue,   // KeyLog::queue_mu_
  kSegments,   // SegmentTable::mu_
  kLeaf,       // all others: nothing is locked under them
};

namespace lock_order {

#ifdef NDEBUG
inline void taken(const void*, LockRank) {}
inline void tried(const void*, LockRank) {}
inline void dropped(const void*) {}
#else
// Ends the process when this thread holds a lock of the same or a higher rank.
void taken(const void* lock, LockRank rank);
// As taken(), for try_lock(), which cannot wait for ever.
void tried(const void* lock, LockRank rank);
void dropped(const void* lock);
#endif

#ifdef PCACHE_TSAN
inline void before_lock(void* lock) { __tsan_mutex_pre_lock(lock, __tsan_mutex_linker_init); }
inline void before_try_lock(void* lock) {
  __tsan_mutex_pre_lock(lock, __tsan_mutex_linker_init | __tsan_mutex_try_lock);
}
inline void after_lock(void* lock) { __tsan_mutex_post_lock(lock, __tsan_mutex_linker_init, 0); }
inline void after_try_lock(void* lock, bool locked) {
  __tsan_mutex_post_lock(lock,
                         __tsan_mutex_linker_init | __tsan_mutex_try_lock |
                             (locked ? 0 : __tsan_mutex_try_lock_failed),
                         0);
}
inline void before_unlock(void* lock) { __tsan_mutex_pre_unlock(lock, 0); }
inline void after_unlock(void* lock) { __tsan_mutex_post_unlock(lock, 0); }
#else
inline void before_lock(void*) {}
inline void before_try_lock(void*) {}
inline void after_lock(void*) {}
inline void after_try_lock(void*, bool) {}
inline void before_unlock(void*) {}
inline void after_unlock(void*) {}
#endif

}  // namespace lock_order

}  // namespace pcache
