/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "message.h"

#include <stdarg.h>
#include <stdio.h>

void message(const char* format, ...) {
  char line[2048];
  va_list args;

  va_start(args, format);
  vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  for (char* c = line; *c; c++) /* paths and options may hold anything */
    if ((unsigned char)*c < ' ' || *c == 0x7f) *c = '?';
  /* One call, so that lines of several threads do not mix. */
  fprintf(stderr, "pcache: %s\n", line);
}
