// SPDX-License-Identifier: GPL-2.0-or-later
// The runs of fio, one at a time: each has a process group of its own, which is ended when we are
// told to end. Of the main thread.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <string>
#include <vector>

namespace pcache::sweep {

struct FioRun {
  std::string folder;  // where fio stands: it makes files for its own state there
  std::vector<std::string> arguments;
  std::string err;  // a file for what fio says on stdout and stderr
};

// We were told to end.
struct Interrupted {};

// SIGINT and SIGTERM end the fio that runs, and whoever waits for it behind that.
void watch_signals();
bool is_interrupted();

// fio's exit status, or 128 and the signal that ended it. Throws Interrupted: we were told to end
// before it began. Throws Wrong: it cannot be started.
int run_fio(const FioRun& what);

// The same when we put things away, told to end or not; after so many seconds it is killed.
int run_fio_at_the_end(const FioRun& what, int most_seconds);

// While it lives, SIGINT and SIGTERM wait.
class SignalsWait {
 public:
  SignalsWait();
  ~SignalsWait();
  SignalsWait(const SignalsWait&) = delete;
  SignalsWait& operator=(const SignalsWait&) = delete;
  // In a child: for what it will run.
  void back_to_default() const;

 private:
  sigset_t before_;
};

// A child of ours that nobody has waited for; false: it runs still.
bool ends_within(pid_t child, int seconds);

}  // namespace pcache::sweep
