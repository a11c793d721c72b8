// SPDX-License-Identifier: GPL-2.0-or-later
// start_child(): starts another program. It gets no descriptor but the three named here, no signal
// of this process's terminal, and no signal that is blocked or ignored here.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"

namespace pcache {

struct Child {
  std::vector<std::string> command;  // the program first; without a / it is looked for in PATH
  // -1: /dev/null. Others are above 2, but that `err` may be 2.
  int in = -1, out = -1, err = -1;
};
// The process id. An errno of posix_spawn(3), with a text without the program's name: ENOENT,
// EACCES, EAGAIN. Any thread.
Result<pid_t> start_child(const Child& child);

// Whether it has ended; waits for that if `waits`. Of a child that somebody else of this process
// has waited for: true, with status -1. `status`: as of waitpid(2).
bool has_ended(pid_t pid, bool waits, int* status);
// "has ended with exit status 3", "was ended by signal 9".
std::string ended_text(int status);

}  // namespace pcache
