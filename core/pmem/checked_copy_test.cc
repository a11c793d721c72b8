// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/checked_copy.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

namespace pcache {
namespace {

constexpr size_t kPage = 4096;

// A mapped file of `pages` pages with known bytes, which can be cut under its mapping.
class MappedFile {
 public:
  explicit MappedFile(size_t pages) : pages_(pages), file_(tmpfile()) {
    EXPECT_EQ(ftruncate(fileno(file_), static_cast<off_t>(pages * kPage)), 0);
    void* p = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file_), 0);
    EXPECT_NE(p, MAP_FAILED);
    bytes_ = static_cast<unsigned char*>(p);
    for (size_t i = 0; i < pages * kPage; i++) bytes_[i] = static_cast<unsigned char>(1 + i % 251);
  }
  ~MappedFile() {
    munmap(bytes_, pages_ * kPage);
    fclose(file_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  void cut_to(size_t pages) {
    EXPECT_EQ(ftruncate(fileno(file_), static_cast<off_t>(pages * kPage)), 0);
  }
  unsigned char* at(size_t off) const { return bytes_ + off; }
  volatile unsigned char* volatile_at(size_t off) const { return bytes_ + off; }

 private:
  const size_t pages_;
  FILE* const file_;
  unsigned char* bytes_ = nullptr;
};

class CheckedCopy : public ::testing::Test {
 protected:
  void SetUp() override { install_checked_copy_handler(); }
};

TEST_F(CheckedCopy, EveryShortLengthAndSomeLongOnes) {
  std::vector<size_t> lengths;
  for (size_t len = 0; len <= 600; len++) lengths.push_back(len);
  // Around the lengths at which the loop that prefetches begins and ends.
  for (size_t len = 1100; len <= 1300; len++) lengths.push_back(len);
  for (size_t len = 2048 - 129; len <= 2048 + 129; len++) lengths.push_back(len);
  for (size_t len : {4095, 4096, 4097, 65536 + 13, 262143, 262144, 262145, 300001})
    lengths.push_back(len);
  std::vector<unsigned char> src(300001 + 64), dst(src.size() + 64);
  for (size_t i = 0; i < src.size(); i++) src[i] = static_cast<unsigned char>(1 + i % 251);
  for (size_t len : lengths)
    for (size_t at : {0, 1, 17, 32}) {
      memset(dst.data(), 0, at + len + 32);
      ASSERT_TRUE(checked_copy(&dst[at], &src[32 - at], len));
      ASSERT_EQ(memcmp(&dst[at], &src[32 - at], len), 0) << len << " at " << at;
      ASSERT_TRUE(at == 0 || dst[at - 1] == 0) << len << " at " << at;
      ASSERT_EQ(dst[at + len], 0) << len << " at " << at;
    }
}

TEST_F(CheckedCopy, ABadPageIsReportedAndGoodOnesStayReadable) {
  MappedFile file(4);
  file.cut_to(2);
  std::vector<unsigned char> dst(4 * kPage);
  EXPECT_TRUE(checked_copy(dst.data(), file.at(0), 2 * kPage));
  EXPECT_EQ(memcmp(dst.data(), file.at(0), 2 * kPage), 0);
  EXPECT_FALSE(checked_copy(dst.data(), file.at(2 * kPage), kPage));
  EXPECT_FALSE(checked_copy(dst.data(), file.at(0), 4 * kPage))
      << "good pages first, then bad ones";
  EXPECT_TRUE(checked_copy(dst.data(), file.at(kPage), kPage)) << "after failures";
}

// Every path through the copy has its own faulting instructions.
TEST_F(CheckedCopy, EveryLengthThatReachesABadPageFails) {
  MappedFile file(130);
  file.cut_to(1);
  std::vector<unsigned char> dst(129 * kPage);
  std::vector<size_t> lengths = {1152, 1153, 2048, 4096};  // also while it is fetched ahead
  for (size_t len = 1; len <= 600; len++) lengths.push_back(len);
  for (const size_t len : lengths) {
    ASSERT_FALSE(checked_copy(dst.data(), file.at(kPage), len)) << len;
    ASSERT_FALSE(checked_copy(dst.data(), file.at(kPage - len + 1), len))
        << "only the last byte, " << len;
    ASSERT_TRUE(checked_copy(dst.data(), file.at(kPage - len), len)) << len;
  }
  ASSERT_FALSE(checked_copy(dst.data(), file.at(kPage - 1), 300000));
}

TEST_F(CheckedCopy, ManyThreadsFailAtOnce) {
  MappedFile file(2);
  file.cut_to(1);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&file] {
      install_checked_copy_handler();
      unsigned char dst[kPage];
      for (int i = 0; i < 500; i++) {
        EXPECT_TRUE(checked_copy(dst, file.at(0), kPage));
        EXPECT_FALSE(checked_copy(dst, file.at(kPage), kPage));
      }
    });
  for (std::thread& t : threads) t.join();
}

// The handler is installed once per process and keeps the earlier handler, so each case below needs
// a process of its own: gtest's "threadsafe" style starts the program anew.
class CheckedCopyDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  // Also removes a sanitizer's own handler. No core file: these processes are meant to crash.
  static void install_over(void (*handler)(int), int flags) {
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    install_over(action);
  }
  static void install_over(const struct sigaction& action) {
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    sigaction(SIGBUS, &action, nullptr);
    install_checked_copy_handler();
  }

  // A fault outside checked_copy(); returns only if a handler repairs the page.
  static void fault_outside() {
    touched_ = file().at(kPage);
    (void)*static_cast<volatile unsigned char*>(touched_);
  }
  // Our handler still works, whatever the earlier handler is.
  static void expect_checked_copy_works() {
    unsigned char dst[64];
    if (!checked_copy(dst, file().at(0), sizeof dst)) _exit(11);
    if (checked_copy(dst, file().at(kPage), sizeof dst)) _exit(12);
  }

  static MappedFile& file() {
    static MappedFile cut(2);
    cut.cut_to(1);
    return cut;
  }
  static void say(const char* text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(13);
  }
  static inline unsigned char* volatile touched_ = nullptr;  // read by a handler
};

TEST_F(CheckedCopyDeathTest, FaultElsewhereKillsAsItWouldHave) {
  const auto body = [] {
    install_over(SIG_DFL, 0);
    expect_checked_copy_works();
    fault_outside();
  };
  EXPECT_EXIT(body(), ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(CheckedCopyDeathTest, AFaultCannotBeIgnored) {
  const auto body = [] {
    install_over(SIG_IGN, 0);
    expect_checked_copy_works();
    fault_outside();
  };
  EXPECT_EXIT(body(), ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(CheckedCopyDeathTest, ASentSignalIsIgnoredWhereItWas) {
  const auto body = [] {
    install_over(SIG_IGN, 0);
    raise(SIGBUS);
    expect_checked_copy_works();
    _exit(0);
  };
  EXPECT_EXIT(body(), ::testing::ExitedWithCode(0), "");
}

TEST_F(CheckedCopyDeathTest, ASentSignalKillsWhereItDid) {
  const auto body = [] {
    install_over(SIG_DFL, 0);
    raise(SIGBUS);
    _exit(0);
  };
  EXPECT_EXIT(body(), ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(CheckedCopyDeathTest, AnEarlierHandlerWithInfoIsReached) {
  const auto body = [] {
    struct sigaction action = {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t* info, void* context) {
      _exit(info->si_addr == touched_ && context != nullptr ? 0 : 14);
    };
    install_over(action);
    expect_checked_copy_works();
    fault_outside();
  };
  EXPECT_EXIT(body(), ::testing::ExitedWithCode(0), "");
}

TEST_F(CheckedCopyDeathTest, AnEarlierPlainHandlerIsReachedWithItsMask) {
  const auto body = [] {
    install_over(
        [](int signal_number) {
          sigset_t blocked;
          pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
          say(sigismember(&blocked, signal_number) ? "blocked " : "open ");
        },
        0);
    raise(SIGBUS);
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    say(sigismember(&blocked, SIGBUS) ? "blocked after" : "open after");
    expect_checked_copy_works();
    _exit(0);
  };
  EXPECT_EXIT(body(), ::testing::ExitedWithCode(0), "blocked open after");
}

TEST_F(CheckedCopyDeathTest, AnEarlierOneShotHandlerIsCalledOnce) {
  const auto body = [] {
    install_over([](int) { say("once "); }, static_cast<int>(SA_RESETHAND));
    expect_checked_copy_works();
    fault_outside();
  };
  EXPECT_EXIT(body(), ::testing::KilledBySignal(SIGBUS), "^once $");
}

}  // namespace
}  // namespace pcache
