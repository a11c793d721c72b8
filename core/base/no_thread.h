// SPDX-License-Identifier: GPL-2.0-or-later
// The error for a thread that cannot be started: one line, with its purpose and what to do.
#pragma once

#include <system_error>

#include "base/result.h"

namespace pcache {

// `thrown`: what std::thread's constructor threw.
inline Error no_thread(const std::system_error& thrown, const char* wanted_for) {
  const int code = thrown.code().value() > 0 ? thrown.code().value() : EAGAIN;
  Error error = error_errno(code, "no thread for %s can be started", wanted_for);
  error.text += ": allow more of them (ulimit -u, pids.max of the cgroup)";
  return error;
}

}  // namespace pcache
