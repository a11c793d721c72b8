// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/child.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <new>

namespace pcache {

namespace {

// What is given to posix_spawnp(), freed with it.
class Spawn {
 public:
  Spawn() {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
  }
  ~Spawn() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  Spawn(const Spawn&) = delete;
  Spawn& operator=(const Spawn&) = delete;

  int prepare(const Child& child) {
    const int given[] = {child.in, child.out, child.err};
    for (int fd = 0; fd < 3; fd++) {
      const int error = given[fd] >= 0
                            ? posix_spawn_file_actions_adddup2(&actions_, given[fd], fd)
                            : posix_spawn_file_actions_addopen(&actions_, fd, "/dev/null",
                                                               fd == 0 ? O_RDONLY : O_WRONLY, 0);
      if (error) return error;
    }
    if (const int error = posix_spawn_file_actions_addclosefrom_np(&actions_, 3)) return error;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    return posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  }
  int run(const Child& child, pid_t* pid) {
    std::vector<char*> words;
    for (const std::string& word : child.command) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    return posix_spawnp(pid, words[0], &actions_, &attributes_, words.data(), environ);
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

Result<pid_t> start_child(const Child& child) try {
  PCACHE_CHECK(!child.command.empty());
  PCACHE_CHECK(child.in == -1 || child.in > 2);
  PCACHE_CHECK(child.out == -1 || child.out > 2);
  PCACHE_CHECK(child.err == -1 || child.err >= 2);
  Spawn spawn;
  pid_t pid = -1;
  int error = spawn.prepare(child);
  if (error == 0) error = spawn.run(child, &pid);
  if (error) return error_errno(error, "cannot be started");
  return pid;
} catch (const std::bad_alloc&) {
  return out_of_memory();
}

bool has_ended(pid_t pid, bool waits, int* status) {
  *status = -1;
  for (;;) {
    const pid_t found = waitpid(pid, status, waits ? 0 : WNOHANG);
    if (found >= 0) return found == pid;
    if (errno != EINTR) return true;
  }
}

std::string ended_text(int status) {
  if (status < 0) return "has ended";
  if (WIFSIGNALED(status))
    return std::string("was ended by signal ") + std::to_string(WTERMSIG(status));
  return std::string("has ended with exit status ") + std::to_string(WEXITSTATUS(status));
}

}  // namespace pcache
