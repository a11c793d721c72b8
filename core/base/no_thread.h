// SPDX-License-Identifier: GPL-2.0-or-later
// Where a thread was not to be had: one line, which says what it was wanted for and what to do.
#pragma once

#include <system_error>

#include "base/result.h"

namespace pcache {

// `thrown`: by std::thread.
inline Error no_thread(const std::system_error& thrown, const char* wanted_for) {
  const int code = thrown.code().value() > 0 ? thrown.code().value() : EAGAIN;
  Error error = error_errno(code, "no thread for %s can be started", wanted_for);
  error.text += ": allow more of them (ulimit -u, pids.max of the cgroup)";
  return error;
}

}  // namespace pcache
