// SPDX-License-Identifier: GPL-2.0-or-later
// Clang's thread-safety annotations: the compiler checks which lock covers what (the clang presets
// build with -Wthread-safety -Werror). Empty for other compilers.
#pragma once

#if defined(__clang__)
#define PCACHE_TSA(x) __attribute__((x))
#else
#define PCACHE_TSA(x)
#endif

#define CAPABILITY(x) PCACHE_TSA(capability(x))
#define SCOPED_CAPABILITY PCACHE_TSA(scoped_lockable)
#define GUARDED_BY(x) PCACHE_TSA(guarded_by(x))
#define PT_GUARDED_BY(x) PCACHE_TSA(pt_guarded_by(x))
#define REQUIRES(...) PCACHE_TSA(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) PCACHE_TSA(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) PCACHE_TSA(acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) PCACHE_TSA(try_acquire_capability(__VA_ARGS__))
#define RELEASE(...) PCACHE_TSA(release_capability(__VA_ARGS__))
#define ACQUIRED_BEFORE(...) PCACHE_TSA(acquired_before(__VA_ARGS__))
#define ACQUIRED_AFTER(...) PCACHE_TSA(acquired_after(__VA_ARGS__))
#define RETURN_CAPABILITY(x) PCACHE_TSA(lock_returned(x))
#define NO_THREAD_SAFETY_ANALYSIS PCACHE_TSA(no_thread_safety_analysis)
