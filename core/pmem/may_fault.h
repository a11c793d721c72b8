// SPDX-License-Identifier: GPL-2.0-or-later
// Instructions that store to mapped pmem, or flush a line of it, and may meet a bad page there.
//
// Each is listed in a table of the program with what follows it, as the kernel does with those that
// access user memory. A SIGBUS at one of them leaves it out and goes on behind it, with the page
// noted (bad_pages.h). So nothing is set up or looked at around a store, and no frame has to be
// unwound. Who has stored asks for the page afterwards (Pmem::store()).
#pragma once

#include <cstdint>

// `insn` is assembly, one instruction; its destination alone may be the mapping. All it changes
// must be outputs or clobbers of its asm statement, since it may not have run, or a part of it
// only.
#define PCACHE_MAY_FAULT(insn) PCACHE_MAY_FAULT_TO(insn, "2b")
// The same in an `asm goto`: what goes on behind a fault is `target`, as in "%l[lost]". For loops:
// a long store to pages that are all bad would fault for each line.
#define PCACHE_MAY_FAULT_TO(insn, target)    \
  "1:\t" insn                                \
  "\n2:\n"                                   \
  "\t.pushsection pcache_may_fault, \"a\"\n" \
  "\t.balign 4\n"                            \
  "\t.long 1b - ., " target                  \
  " - .\n"                                   \
  "\t.popsection\n"

namespace pcache {

// Where to go on after a fault of the instruction at `at`; 0: it is not listed. From a signal
// handler.
uintptr_t behind_fault(uintptr_t at);

}  // namespace pcache
