// SPDX-License-Identifier: GPL-2.0-or-later
#include "sweep/host_server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <utility>

#include "sweep/fio_process.h"
#include "sweep/parameter.h"
#include "sweep/run_folder.h"

namespace pcache::sweep {

namespace {

constexpr int kPatienceSeconds = 5;

[[noreturn]] void become(const std::vector<std::string>& command) {
  std::vector<const char*> words;
  words.reserve(command.size() + 1);
  for (const std::string& word : command) words.push_back(word.c_str());
  words.push_back(nullptr);
  execvp(words[0], const_cast<char* const*>(words.data()));
  dprintf(STDERR_FILENO, "%s: cannot be run: %s\n", words[0], strerror(errno));
  _exit(127);
}

}  // namespace

HostServer::HostServer(const std::vector<std::string>& command, std::string log)
    : log_(std::move(log)) {
  const int out = open(log_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  const int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (out < 0 || in < 0) throw Wrong("cannot write " + log_ + ": " + strerror(errno));
  const SignalsWait wait;
  const pid_t parent = getpid();
  child_ = fork();
  if (child_ == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    wait.back_to_default();
    become(command);
  }
  const int error = errno;
  close(out);
  close(in);
  if (child_ < 0) throw Wrong(std::string("cannot fork: ") + strerror(error));
  setpgid(child_, child_);
}

// fio's server ends its jobs when it is told to end.
HostServer::~HostServer() {
  if (has_ended()) return;
  kill(-child_, SIGTERM);
  if (!ends_within(child_, kPatienceSeconds)) kill(-child_, SIGKILL);
  while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) continue;
}

bool HostServer::has_ended() {
  siginfo_t ended{};
  if (child_ < 0) return true;
  if (waitid(P_PID, static_cast<id_t>(child_), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      ended.si_pid != child_)
    return false;
  kill(-child_, SIGTERM);  // what it has started and not ended; until it is reaped, that is its own
  waitpid(child_, nullptr, 0);
  child_ = -1;
  return true;
}

std::vector<std::string> HostServer::new_lines() {
  const std::string said = read_file(log_), fresh = said.substr(std::min(read_, said.size()));
  std::vector<std::string> lines;
  const size_t end = fresh.rfind('\n');
  if (end == fresh.npos) return lines;
  read_ += end + 1;
  std::istringstream in(fresh.substr(0, end));
  for (std::string line; std::getline(in, line);) {
    while (line.ends_with('\r')) line.pop_back();  // of a terminal
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

}  // namespace pcache::sweep
