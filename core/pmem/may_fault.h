// SPDX-License-Identifier: GPL-2.0-or-later
// Instructions that store to mapped pmem, or flush a line of it, and may meet a bad page there.
//
// The program has a table of them, each with the place where to go on, as the kernel has for its
// accesses to user memory. A SIGBUS at one skips it, goes on there, and notes the page
// (bad_pages.h). So nothing is set up or checked around a store, and no frame is unwound. The
// caller checks for noted pages afterwards (Pmem::store()).
#pragma once

#include <cstdint>

// `insn` is one instruction in assembly; only its destination may be in the mapping. All that it
// changes must be outputs or clobbers of its asm statement, since it may not have run, or only in
// part.
#define PCACHE_MAY_FAULT(insn) PCACHE_MAY_FAULT_TO(insn, "2b")
// The same in an `asm goto`: after a fault it goes on at `target`, as in "%l[lost]". For loops: a
// long store to bad pages would otherwise fault for each line.
#define PCACHE_MAY_FAULT_TO(insn, target)    \
  "1:\t" insn                                \
  "\n2:\n"                                   \
  "\t.pushsection pcache_may_fault, \"a\"\n" \
  "\t.balign 4\n"                            \
  "\t.long 1b - ., " target                  \
  " - .\n"                                   \
  "\t.popsection\n"

namespace pcache {

// Where to go on after a fault of the instruction at `at`; 0: it is not in the table. Called by a
// signal handler.
uintptr_t behind_fault(uintptr_t at);

}  // namespace pcache
