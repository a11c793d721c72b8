// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <unistd.h>

#include <cerrno>

namespace pcache::sweep {

// Takes a lock, unless somebody keeps it for a second: of a sweep that was killed, what it has
// started may be about to end. `try_once` says whether it could, and errno why not.
template <typename Try>
bool lock_soon(Try try_once) {
  for (int left = 20; left > 0; left--) {
    if (try_once()) return true;
    if (errno != EAGAIN && errno != EACCES) return false;
    usleep(50'000);
  }
  return try_once();
}

}  // namespace pcache::sweep
