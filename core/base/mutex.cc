// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/mutex.h"

namespace pcache {

void LockWord::lock_slow() {
  // Critical sections take tens of nanoseconds: a short spin mostly saves the system call.
  for (int i = 0; i < 100; i++) {
    uint32_t expected = kFree;
    if (word_.load(std::memory_order_relaxed) == kFree &&
        word_.compare_exchange_weak(expected, kHeld, std::memory_order_acquire))
      return;
    __builtin_ia32_pause();
  }
  while (word_.exchange(kContended, std::memory_order_acquire) != kFree)
    word_.wait(kContended, std::memory_order_relaxed);
}

}  // namespace pcache
