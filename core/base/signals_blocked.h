// SPDX-License-Identifier: GPL-2.0-or-later
// SignalsBlocked: blocks every signal but that of a bad page while it lives: a thread that is
// started then inherits that, and runs no handler of the program's.
#pragma once

#include <signal.h>

namespace pcache {

class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace pcache
