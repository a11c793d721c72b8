// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/process_barrier.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"

namespace pcache {

namespace {

long membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace

bool process_barrier_available() {
  static const bool available = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 &&
                                membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
  return available;
}

void process_barrier() {
  // The kernel may be short of memory for its list of CPUs.
  while (membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0) {
    PCACHE_CHECK(errno == ENOMEM);
    sched_yield();
  }
}

}  // namespace pcache
