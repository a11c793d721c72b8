// SPDX-License-Identifier: GPL-2.0-or-later
// A full memory barrier in every other thread of this process: membarrier(2), private expedited.
// The kernel interrupts the CPUs that run our threads, which takes some microseconds. A thread that
// does not run had its barrier when it was switched out.
//
// It is no barrier in the calling thread: with one CPU, or one thread, the call returns at once.
//
// When process_barrier() returns, all stores of another thread before its barrier are done. So are
// its streaming stores and line flushes: the barrier is a locked instruction or MFENCE, which waits
// for them as SFENCE does. So a frequent operation needs only a compiler barrier, if the rare
// operation that it must be ordered with calls process_barrier() for both.
#pragma once

namespace pcache {

// Whether the kernel has it (Linux 4.14) and no filter forbids it. Asked once; any thread.
bool process_barrier_available();

// Only where it is available. If it no longer is (a seccomp filter installed meanwhile) the process
// ends: nothing else can do what others rely on.
void process_barrier();

}  // namespace pcache
