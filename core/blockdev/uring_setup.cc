// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/uring_setup.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pcache {

namespace {

Error setup_error(int code) {
  switch (code) {
    case EPERM:
    case EACCES:
    case ENOSYS:
      return error_errno(code,
                         "io_uring is not permitted here: set sysctl kernel.io_uring_disabled=0, "
                         "allow io_uring in the container's seccomp profile (io_uring_setup and "
                         "io_uring_enter), or use io_mode=threads");
    case ENOMEM:
      return error_errno(code,
                         "io_uring cannot lock the memory of its rings: raise RLIMIT_MEMLOCK "
                         "(ulimit -l), or use io_mode=threads");
    default:
      return error_errno(code, "cannot set up io_uring: use io_mode=threads");
  }
}

}  // namespace

Result<UringHandle> make_ring(unsigned entries, UringInit init) {
  // No SINGLE_ISSUER, COOP_TASKRUN or DEFER_TASKRUN: any thread may poll a queue while its owner
  // computes, so completions must arrive although the owner does not enter the kernel.
  io_uring_params params = {};
  params.flags = IORING_SETUP_CLAMP;
  UringHandle ring(new io_uring());
  const int rc = init(entries, ring.get(), &params);
  if (rc < 0) {
    delete ring.release();  // there is no ring to exit from
    return setup_error(-rc);
  }
  constexpr unsigned kNeeded = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP;
  if ((params.features & kNeeded) != kNeeded)
    return make_error(EOPNOTSUPP,
                      "the kernel's io_uring is too old (Linux 5.11 is needed): use "
                      "io_mode=threads");
  return ring;
}

int wait_for_completion(int ring_fd, int64_t timeout_ns) {
  PCACHE_DCHECK(timeout_ns >= 0);
  __kernel_timespec ts = {};
  ts.tv_sec = timeout_ns / 1'000'000'000;
  ts.tv_nsec = timeout_ns % 1'000'000'000;
  io_uring_getevents_arg arg = {};
  arg.sigmask_sz = _NSIG / 8;
  arg.ts = reinterpret_cast<uint64_t>(&ts);
  const long rc = syscall(__NR_io_uring_enter, ring_fd, 0, 1,
                          IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof arg);
  return rc < 0 ? -errno : static_cast<int>(rc);
}

// A filter may allow to set up a ring and forbid to enter it: this tries both kinds of entering.
Status probe_uring(UringInit init) {
  auto made = make_ring(2, init);
  if (!made) return made.error();
  const UringHandle ring = made.take();
  io_uring_prep_nop(io_uring_get_sqe(ring.get()));
  int rc = 0;
  do rc = io_uring_submit(ring.get());
  while (rc == -EINTR);
  if (rc < 0) return setup_error(-rc);
  do rc = wait_for_completion(ring->ring_fd, 0);
  while (rc == -EINTR);
  if (rc < 0 && rc != -ETIME) return setup_error(-rc);
  return {};
}

}  // namespace pcache
