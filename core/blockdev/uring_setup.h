// SPDX-License-Identifier: GPL-2.0-or-later
// Makes an io_uring, or says in plain words why there is none.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <memory>

#include "base/result.h"

namespace pcache {

// io_uring_queue_init_params(), or what a test puts in its place.
using UringInit = int (*)(unsigned entries, io_uring* ring, io_uring_params* params);

struct UringExit {
  void operator()(io_uring* ring) const {
    io_uring_queue_exit(ring);
    delete ring;
  }
};
using UringHandle = std::unique_ptr<io_uring, UringExit>;

// The error says what to do. Its code is the kernel's, or EOPNOTSUPP if the kernel is too old.
Result<UringHandle> make_ring(unsigned entries, UringInit init);

// Sleeps until there is a completion, or `timeout_ns` (0 or more) has passed; submits nothing. 0 or
// more, -ETIME, -EINTR: look again; else -errno. Any thread, while others use the ring, too.
int wait_for_completion(int ring_fd, int64_t timeout_ns);

// Whether rings work here: makes one, and sends a request through it.
Status probe_uring(UringInit init);

}  // namespace pcache
