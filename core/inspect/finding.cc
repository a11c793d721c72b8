// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/finding.h"

#include <cstdarg>
#include <cstdio>

namespace pcache {

const char* severity_name(Severity severity) {
  switch (severity) {
    case Severity::kNote:
      return "note";
    case Severity::kFinding:
      return "finding";
    case Severity::kLost:
      return "lost";
  }
  return "?";
}

void Findings::add(Severity severity, const char* code, std::string where, const char* format,
                   ...) {
  by_severity_[static_cast<size_t>(severity)]++;
  if (++counts_[code] > kMostOfACode) {
    omitted_++;
    return;
  }
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  all_.push_back({severity, code, std::move(where), text});
}

Severity Findings::worst() const {
  if (count(Severity::kLost) > 0) return Severity::kLost;
  return count(Severity::kFinding) > 0 ? Severity::kFinding : Severity::kNote;
}

}  // namespace pcache
