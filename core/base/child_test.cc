// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

namespace pcache {
namespace {

struct Pipe {
  std::array<int, 2> fds{-1, -1};
  Pipe() { EXPECT_EQ(pipe2(fds.data(), O_CLOEXEC), 0); }
  ~Pipe() {
    for (const int fd : fds)
      if (fd >= 0) close(fd);
  }
  void close_end(int end) {
    close(fds[end]);
    fds[end] = -1;
  }
  std::string read_all() {
    std::string text;
    char c;
    while (read(fds[0], &c, 1) == 1) text += c;
    return text;
  }
};

std::string said_by(const std::string& script, int* status) {
  Pipe out;
  const auto pid = start_child({{"sh", "-c", script}, -1, out.fds[1]});
  EXPECT_TRUE(pid.ok());
  out.close_end(1);
  const std::string text = out.read_all();
  EXPECT_TRUE(has_ended(pid.value(), true, status));
  return text;
}

TEST(Child, SaysWhatItSaysAndEnds) {
  int status;
  EXPECT_EQ(said_by("echo one; exit 3", &status), "one\n");
  EXPECT_EQ(ended_text(status), "has ended with exit status 3");
  EXPECT_EQ(said_by("kill -9 $$", &status), "");
  EXPECT_EQ(ended_text(status), "was ended by signal 9");
}

// Also those that were opened without O_CLOEXEC.
TEST(Child, GetsNoOtherDescriptor) {
  const int left_open = open("/dev/null", O_RDONLY);
  ASSERT_GT(left_open, 2);
  int status;
  const std::string at = "/proc/$$/fd/";
  EXPECT_EQ(said_by("test -e " + at + "1 && echo 1; test -e " + at + std::to_string(left_open) +
                        " && echo left",
                    &status),
            "1\n");
  close(left_open);
}

TEST(Child, HasNoSignalBlockedOrIgnoredAndIsInASessionOfItsOwn) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto was = signal(SIGINT, SIG_IGN);
  int status;
  const std::string text = said_by(
      "grep -E 'SigBlk|SigIgn' /proc/self/status; cut -d' ' -f6 /proc/$$/stat; echo $$", &status);
  signal(SIGINT, was);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  const auto set_of = [&](const std::string& name) {
    return strtoull(text.substr(text.find(name) + name.size()).c_str(), nullptr, 16);
  };
  EXPECT_EQ(set_of("SigBlk:"), 0u);
  EXPECT_EQ(set_of("SigIgn:") & 0x7fffffff, 0u) << "and not of the C library's own";
  const std::string ids = text.substr(text.find('\n', text.find("SigIgn")) + 1);
  const size_t middle = ids.find('\n');
  EXPECT_EQ(ids.substr(0, middle + 1), ids.substr(middle + 1)) << "the session is not its own";
}

TEST(Child, AProgramThatIsNotThereIsSaid) {
  const auto pid = start_child({{"/no/such/program"}});
  ASSERT_FALSE(pid.ok());
  EXPECT_EQ(pid.error().code, ENOENT);
}

TEST(Child, OneThatSomebodyElseHasWaitedForHasEnded) {
  const auto pid = start_child({{"true"}});
  ASSERT_TRUE(pid.ok());
  int status;
  EXPECT_TRUE(has_ended(pid.value(), true, &status));
  EXPECT_TRUE(has_ended(pid.value(), false, &status));
  EXPECT_EQ(status, -1);
  EXPECT_EQ(ended_text(status), "has ended");
}

}  // namespace
}  // namespace pcache
