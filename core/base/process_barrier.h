// SPDX-License-Identifier: GPL-2.0-or-later
// A full memory barrier in every other thread of this process, made by one of them: membarrier(2),
// private expedited. The processors that run our threads are interrupted, some microseconds; a
// thread that does not run has had its barrier when it was switched away from.
//
// Not in the calling one: with one CPU, or one thread, the call returns at once.
//
// What a thread did before its barrier (stores, streaming stores and line flushes included: the
// barrier is a locked instruction or MFENCE, which wait for them like SFENCE does) is over when
// process_barrier() returns. So a thread that does something often needs no barrier of its own,
// only an order of the compiler's, when the thread that cares for it, rarely, makes one for both.
#pragma once

namespace pcache {

// Whether the kernel offers it (Linux 4.14) and nothing forbids it. Asked once; any thread.
bool process_barrier_available();

// Only where it is available. That it is not any more (a seccomp filter installed meanwhile) ends
// the process: what has been left to it cannot be done otherwise.
void process_barrier();

}  // namespace pcache
