// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/result.h"

#include <cstdlib>
#include <cstring>

namespace pcache {

namespace {

std::string vformat(const char* format, va_list args) {
  char line[1024];
  const int n = vsnprintf(line, sizeof line, format, args);
  return n < 0 ? std::string(format) : std::string(line);
}

}  // namespace

Error make_error(int code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  Error error{code, vformat(format, args)};
  va_end(args);
  return error;
}

Error error_errno(int code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  Error error{code, vformat(format, args)};
  va_end(args);
  char buf[128];
  error.text += ": ";
  error.text += strerror_r(code, buf, sizeof buf);
  return error;
}

void check_failed(const char* file, int line, const char* expression) {
  fprintf(stderr, "pcache: bug: %s:%d: broken invariant: %s\n", file, line, expression);
  abort();
}

}  // namespace pcache
