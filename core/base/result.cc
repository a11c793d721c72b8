// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/result.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/one_line.h"

namespace pcache {

namespace {

// Short enough for the string to keep it without an allocation.
constexpr char kOutOfMemory[] = "out of memory";

// For a process without memory even for an error: one Error for each errno, never freed.
constexpr int kMostCode = 134;
alignas(Error) std::byte g_errors[kMostCode][sizeof(Error)];

Error* error_in_reserve(int code) noexcept {
  static Error* const first = [] {
    for (int i = 0; i < kMostCode; i++) ::new (g_errors[i]) Error{i, kOutOfMemory};
    return reinterpret_cast<Error*>(g_errors);
  }();
  return first + (code > 0 && code < kMostCode ? code : EIO);
}

bool in_reserve(const Error* error) {
  const auto at = reinterpret_cast<uintptr_t>(error), start = reinterpret_cast<uintptr_t>(g_errors);
  return at >= start && at < start + sizeof g_errors;
}

[[gnu::format(printf, 2, 0)]] Error format_error(int code, const char* format, va_list args,
                                                 bool with_errno) noexcept {
  char line[1024 + 128];
  int n = vsnprintf(line, 1024, format, args);
  n = n < 0 ? 0 : std::min(n, 1023);
  char buf[120];
  if (with_errno)
    snprintf(line + n, sizeof line - static_cast<size_t>(n), ": %s",
             strerror_r(code, buf, sizeof buf));
  make_one_line(line);
  try {
    return Error{code, line};
  } catch (const std::bad_alloc&) {
    return Error{code, kOutOfMemory};
  }
}

}  // namespace

Error make_error(int code, const char* format, ...) noexcept {
  va_list args;
  va_start(args, format);
  Error error = format_error(code, format, args, false);
  va_end(args);
  return error;
}

Error error_errno(int code, const char* format, ...) noexcept {
  va_list args;
  va_start(args, format);
  Error error = format_error(code, format, args, true);
  va_end(args);
  return error;
}

Error out_of_memory() noexcept { return Error{ENOMEM, kOutOfMemory}; }

ErrorPtr keep_error(Error error) noexcept {
  if (auto* const kept = new (std::nothrow) Error) {
    *kept = std::move(error);
    return ErrorPtr(kept);
  }
  return ErrorPtr(error_in_reserve(error.code));
}

void ErrorDeleter::operator()(Error* error) const noexcept {
  if (!in_reserve(error)) delete error;
}

void check_failed(const char* file, int line, const char* expression) {
  fprintf(stderr, "pcache: bug: %s:%d: broken invariant: %s\n", file, line, expression);
  abort();
}

}  // namespace pcache
