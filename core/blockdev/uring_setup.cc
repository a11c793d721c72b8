// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/uring_setup.h"

namespace pcache {

namespace {

Error setup_error(int code) {
  switch (code) {
    case EPERM:
    case EACCES:
    case ENOSYS:
      return error_errno(code,
                         "io_uring is not permitted here: set sysctl kernel.io_uring_disabled=0, "
                         "allow io_uring in the container's seccomp profile, or use "
                         "io_mode=threads");
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
  // computes, so completions must arrive without the owner entering the kernel.
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

Status probe_uring(UringInit init) {
  auto ring = make_ring(2, init);
  if (!ring) return ring.error();
  return {};
}

}  // namespace pcache
