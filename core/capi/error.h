// SPDX-License-Identifier: GPL-2.0-or-later
// How an Error, or an exception of the standard library, leaves through the C ABI.
#pragma once

#include <cstdio>
#include <exception>
#include <new>

#include "base/result.h"
#include "pcache.h"

#define PCACHE_EXPORT extern "C" [[gnu::visibility("default")]]

namespace pcache {

inline int fail(const Error& error, pcache_error* err) {
  PCACHE_CHECK(error.code > 0);  // 0 would tell the caller that it has succeeded
  if (err) {
    err->code = -error.code;
    snprintf(err->text, sizeof err->text, "%s", error.text.c_str());
  }
  return -error.code;
}

// Runs `function`, which returns 0 or the result of fail().
template <typename Function>
int guarded(pcache_error* err, Function function) {
  if (err) {
    err->code = 0;
    err->text[0] = 0;
  }
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return fail(make_error(ENOMEM, "out of memory"), err);
  } catch (const std::exception& e) {
    return fail(make_error(EAGAIN, "%s", e.what()), err);
  }
}

}  // namespace pcache
