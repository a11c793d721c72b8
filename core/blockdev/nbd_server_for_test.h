// SPDX-License-Identifier: GPL-2.0-or-later
// A real server of NBD for tests: nbdkit, on a UNIX socket of its own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace pcache {

class NbdServerForTest {
 public:
  NbdServerForTest() {
    std::string folder = testing::TempDir() + "pcache-nbd-XXXXXX";
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  ~NbdServerForTest() {
    stop();
    std::filesystem::remove_all(folder_);
  }
  NbdServerForTest(const NbdServerForTest&) = delete;
  NbdServerForTest& operator=(const NbdServerForTest&) = delete;

  std::string uri() const { return "nbd+unix:///?socket=" + socket(); }
  std::string socket() const { return folder_ / "socket"; }

  // What nbdkit is to serve, and how. Returns when it serves.
  void start(std::vector<std::string> arguments) {
    const std::string ready = folder_ / "pid";
    std::filesystem::remove(socket());
    std::filesystem::remove(ready);
    std::vector<std::string> all = {
        "nbdkit", "--foreground", "--exit-with-parent", "--unix", socket(), "--pidfile", ready};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& argument : all) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string log = folder_ / "log";
    pid_ = fork();
    if (pid_ == 0) {
      const int to = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(to, STDERR_FILENO);
      execvp(argv[0], argv.data());
      _exit(127);
    }
    while (!std::filesystem::exists(ready)) {
      ASSERT_EQ(waitpid(pid_, nullptr, WNOHANG), 0) << "nbdkit has ended: is it installed?";
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  // As init systems do: of a server that does not end when it is told, kMostEnding is the end. A
  // thread of nbdkit 1.32 that reads from a client at that moment ends with the client alone.
  void stop(int signal = SIGKILL) {
    if (pid_ <= 0) return;
    kill(pid_, signal);
    const auto until = std::chrono::steady_clock::now() + kMostEnding;
    while (waitpid(pid_, nullptr, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > until) kill(pid_, SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    pid_ = -1;
  }
  void pause() {
    kill(pid_, SIGSTOP);
    waitpid(pid_, nullptr, WUNTRACED);  // it does nothing any more
  }
  void go_on() { kill(pid_, SIGCONT); }

 private:
  static constexpr std::chrono::seconds kMostEnding{5};

  std::filesystem::path folder_;
  pid_t pid_ = -1;
};

}  // namespace pcache
