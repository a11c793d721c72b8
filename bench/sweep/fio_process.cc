// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/fio_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "sweep/parameter.h"

namespace pcache::sweep {

namespace {

std::atomic<pid_t> g_child{0};
std::atomic<bool> g_interrupted{false};

constexpr int kPatienceSeconds = 5;

// Also each second behind that, by the alarm: fio does not hear all that comes before it has its
// jobs.
void on_signal(int signal) {
  static std::atomic<int> alarms{0};
  g_interrupted = true;
  if (signal == SIGALRM) alarms++;
  if (const pid_t child = g_child) kill(-child, alarms < kPatienceSeconds ? SIGTERM : SIGKILL);
  alarm(1);
}

[[noreturn]] void become_fio(const FioRun& what) {
  std::vector<const char*> arguments = {"fio"};
  for (const std::string& one : what.arguments) arguments.push_back(one.c_str());
  arguments.push_back(nullptr);
  if (chdir(what.folder.c_str()) == 0)
    execvp(arguments[0], const_cast<char* const*>(arguments.data()));
  dprintf(STDERR_FILENO, "fio: cannot be run: %s; scripts/setup installs it\n", strerror(errno));
  _exit(127);
}

// A signal that comes meanwhile is neither lost in the child, before it is fio, nor here, before
// it is known whom to end. `to_end`: a signal may end it.
pid_t start(const FioRun& what, int log, bool to_end) {
  SignalsWait wait;
  if (to_end && g_interrupted) throw Interrupted();
  const pid_t parent = getpid(), child = fork();
  if (child == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // or a resumed run would write beside it
    if (getppid() != parent) _exit(127);
    dup2(log, STDERR_FILENO);
    dup2(log, STDOUT_FILENO);
    wait.back_to_default();
    become_fio(what);
  }
  if (child < 0) throw Wrong(std::string("cannot fork: ") + strerror(errno));
  setpgid(child, child);
  if (to_end) g_child = child;
  return child;
}

pid_t start_with_log(const FioRun& what, bool to_end) {
  const int log = open(what.err.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (log < 0) throw Wrong("cannot write " + what.err + ": " + strerror(errno));
  try {
    const pid_t child = start(what, log, to_end);
    close(log);
    return child;
  } catch (...) {
    close(log);
    throw;
  }
}

int status_of(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

SignalsWait::SignalsWait() {
  sigset_t ours;
  sigemptyset(&ours);
  for (const int signal : {SIGINT, SIGTERM, SIGALRM}) sigaddset(&ours, signal);
  sigprocmask(SIG_BLOCK, &ours, &before_);
}

SignalsWait::~SignalsWait() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

void SignalsWait::back_to_default() const {
  for (const int signal : {SIGINT, SIGTERM, SIGALRM}) ::signal(signal, SIG_DFL);
  sigprocmask(SIG_SETMASK, &before_, nullptr);
}

void watch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGALRM, &action, nullptr);
}

bool is_interrupted() { return g_interrupted; }

int run_fio(const FioRun& what) {
  const pid_t child = start_with_log(what, true);
  const int status = status_of(child);
  g_child = 0;
  return status;
}

int run_fio_at_the_end(const FioRun& what, int most_seconds) {
  const pid_t child = start_with_log(what, false);
  if (!ends_within(child, most_seconds)) kill(-child, SIGKILL);
  return status_of(child);
}

bool ends_within(pid_t child, int seconds) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::seconds(seconds);
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  if (fd < 0) return false;
  pollfd ended = {fd, POLLIN, 0};
  int found = 0;
  do {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    found = left > 0 ? poll(&ended, 1, static_cast<int>(left)) : 0;
  } while (found < 0 && errno == EINTR);
  close(fd);
  return found > 0;
}

}  // namespace pcache::sweep
