// SPDX-License-Identifier: GPL-2.0-or-later
// Names the tests that start a thread: they are what ThreadSanitizer is to see, and no list of them
// can become old. With PCACHE_TESTS_WITH_THREADS=FILE in the environment, each test that called
// pthread_create() becomes a line of FILE, appended. A part of each test program, but for those
// with a sanitizer: ThreadSanitizer has a pthread_create() of its own.
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

std::atomic<unsigned> started{0};

class WithThreads : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo&) override { before_ = started; }
  void OnTestEnd(const ::testing::TestInfo& test) override {
    const char* const path = getenv("PCACHE_TESTS_WITH_THREADS");
    if (!path || started == before_) return;
    const std::string line = std::string(test.test_suite_name()) + "." + test.name() + "\n";
    // One write: another test program may append to the same file.
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      perror(path);
      abort();
    }
    close(fd);
  }
  unsigned before_ = 0;
};

[[maybe_unused]] const bool listens = [] {
  ::testing::UnitTest::GetInstance()->listeners().Append(new WithThreads);
  return true;
}();

}  // namespace

// Also for libstdc++'s std::thread, which looks for it in the program first.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*body)(void*), void* argument) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto real = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  started++;
  return real(thread, attributes, body, argument);
}
