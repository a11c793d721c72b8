/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fail.h"

#include <stdarg.h>
#include <stdio.h>

int fail(const char* format, ...) {
  char line[600];
  va_list arguments;

  va_start(arguments, format);
  vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  fprintf(stderr, NAME ": %s\n", line);
  return FAILED;
}
