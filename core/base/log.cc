// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/log.h"

#include <cstdarg>
#include <cstdio>

#include "base/one_line.h"

namespace pcache {

void Log::print(LogLevel level, const char* format, ...) const {
  if (!sink_) return;
  char line[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  make_one_line(line);
  sink_(level, line);
}

}  // namespace pcache
