// SPDX-License-Identifier: GPL-2.0-or-later
// Forbids the calling thread a system call, as a container's filter may.
#pragma once

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <iterator>

namespace pcache {

// From now on the system call fails with `error` in this thread and those that it starts.
inline void forbid_in_this_thread(unsigned number, unsigned error) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter = {std::size(program), program};
  ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

// No thread can be started any more, as when a limit of processes is reached.
inline void forbid_threads_in_this_thread() {
  forbid_in_this_thread(__NR_clone3, ENOSYS);  // libc then takes clone()
  forbid_in_this_thread(__NR_clone, EAGAIN);
}

}  // namespace pcache
