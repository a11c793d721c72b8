// SPDX-License-Identifier: GPL-2.0-or-later
// PCACHE_CHECK: for our own bugs, never for what a device or a file contained. Active in every
// build: a cache that goes on after a broken invariant destroys data.
#pragma once

namespace pcache {

[[noreturn, gnu::cold]] void check_failed(const char* file, int line, const char* expression);

}  // namespace pcache

#define PCACHE_CHECK(expression)                                    \
  do {                                                              \
    if (__builtin_expect(!(expression), 0))                         \
      ::pcache::check_failed(__FILE_NAME__, __LINE__, #expression); \
  } while (0)

// For the hot path: only in debug and sanitizer builds.
#ifdef NDEBUG
#define PCACHE_DCHECK(expression) \
  do {                            \
  } while (0)
#else
#define PCACHE_DCHECK(expression) PCACHE_CHECK(expression)
#endif
