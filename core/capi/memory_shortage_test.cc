// SPDX-License-Identifier: GPL-2.0-or-later
// The C ABI over real devices while memory is short: open and close, with the backing device's
// rings or threads, and the status. The N-th allocation of the calling thread fails, alone or with
// all later ones, for every N. No thread and no descriptor may be left then.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "blockdev/temp_file_for_test.h"
#include "control/folder_for_test.h"
#include "pcache.h"
#include "testing/shortage/failing_memory.h"

namespace pcache {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr uint64_t kCacheBytes = 512 << 20;
constexpr uint64_t kDeviceBytes = 16 << 20;

size_t entries(const char* folder) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) count++;
  return count;
}
size_t descriptors() { return entries("/proc/self/fd"); }
// For a moment the list still has a thread that was joined.
size_t threads(size_t expected) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (;;) {
    const size_t count = entries("/proc/self/task");
    if (count <= expected || std::chrono::steady_clock::now() > deadline) return count;
    std::this_thread::yield();
  }
}

// The cache is formatted, and its file has all its blocks: an attach changes little.
class CapiMemoryShortage : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    pcache_options_init(&options_);
    options_.cache_path = cache_.c_str();
    options_.backing_path = device_.path().c_str();
    options_.cache_size = kCacheBytes;
    options_.emulate_pmem = 1;
    options_.control = control_.c_str();
    ASSERT_EQ(pcache_options_set(&options_, "io_mode", GetParam(), &error_), 0) << error_.text;
    unlink(cache_.c_str());
    open();
    ASSERT_FALSE(HasFatalFailure());
    close();
    descriptors_ = descriptors();
    threads_ = entries("/proc/self/task");
  }
  void TearDown() override { unlink(cache_.c_str()); }

  void open() {
    ASSERT_EQ(pcache_open(&options_, &opened_, &error_), 0) << error_.text;
    ASSERT_EQ(pcache_queue_create(opened_, 4, &queue_, &error_), 0) << error_.text;
  }
  void close() {
    pcache_queue_destroy(queue_);
    queue_ = nullptr;
    EXPECT_EQ(pcache_close(opened_, &error_), 0) << error_.text;
    opened_ = nullptr;
  }
  void expect_nothing_left() {
    EXPECT_EQ(descriptors(), descriptors_);
    EXPECT_EQ(threads(threads_), threads_);
    EXPECT_EQ(entries(folder_.path().c_str()), 0u);
  }
  static void expect_out_of_memory(int rc, const pcache_error& error) {
    EXPECT_EQ(rc, -ENOMEM) << error.text;
    EXPECT_EQ(error.code, rc);
    EXPECT_THAT(error.text, AnyOf(HasSubstr("out of memory"), HasSubstr("Cannot allocate memory")));
  }
  // For each N, until no allocation fails. Returns the number of rounds.
  template <typename Round>
  uint64_t for_every_shortage(Round round) {
    uint64_t rounds = 0;
    for (const uint64_t fail : {uint64_t{1}, FailingMemory::kAll})
      for (uint64_t pass = 0;; pass++, rounds++) {
        SCOPED_TRACE(::testing::Message() << "allocation " << pass << (fail == 1 ? "" : " and on"));
        round(pass, fail);
        if (HasFailure() || allocations_failed() == 0) break;
      }
    return rounds;
  }

  const std::string cache_ = "/dev/shm/pcache-capi-test-" + std::to_string(getpid());
  const TempFile device_{kDeviceBytes};
  const TempFolder folder_;
  const std::string control_ = folder_ / "socket";
  pcache_options options_;
  pcache_error error_ = {};
  pcache_cache* opened_ = nullptr;
  pcache_queue* queue_ = nullptr;
  size_t descriptors_ = 0, threads_ = 0;
};
INSTANTIATE_TEST_SUITE_P(IoMode, CapiMemoryShortage, ::testing::Values("io_uring", "threads"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(CapiMemoryShortage, Opening) {
  const uint64_t rounds = for_every_shortage([this](uint64_t pass, uint64_t fail) {
    int rc = 0;
    {
      const FailingMemory failing(pass, fail);
      rc = pcache_open(&options_, &opened_, &error_);
    }
    if (rc != 0) {
      EXPECT_EQ(opened_, nullptr);
      expect_out_of_memory(rc, error_);
    } else {
      EXPECT_EQ(pcache_close(opened_, &error_), 0) << error_.text;
    }
    expect_nothing_left();
  });
  EXPECT_GT(rounds, 100u);
  open();
  close();
}

TEST_P(CapiMemoryShortage, QueueAndClosing) {
  const uint64_t rounds = for_every_shortage([this](uint64_t pass, uint64_t fail) {
    ASSERT_EQ(pcache_open(&options_, &opened_, &error_), 0) << error_.text;
    int created = 0, closed = 0;
    pcache_error no_queue = {};
    {
      const FailingMemory failing(pass, fail);
      created = pcache_queue_create(opened_, 4, &queue_, &no_queue);
      if (created == 0) pcache_queue_destroy(queue_);
      closed = pcache_close(opened_, &error_);
    }
    if (created != 0) expect_out_of_memory(created, no_queue);
    if (closed != 0) expect_out_of_memory(closed, error_);
    expect_nothing_left();
  });
  EXPECT_GT(rounds, 4u);
  open();
  close();
}

TEST_P(CapiMemoryShortage, Status) {
  open();
  for (const auto format : {PCACHE_STATUS_JSON, PCACHE_STATUS_LINE}) {
    const uint64_t rounds = for_every_shortage([&](uint64_t pass, uint64_t fail) {
      char* text = nullptr;
      {
        const FailingMemory failing(pass, fail);
        text = pcache_get_status(opened_, format);
      }
      EXPECT_EQ(text == nullptr, allocations_failed() > 0) << "what fails is NULL";
      free(text);
    });
    EXPECT_GE(rounds, 2u);
    char* const text = pcache_get_status(opened_, format);
    ASSERT_NE(text, nullptr) << "with memory it works again";
    EXPECT_THAT(std::string(text), HasSubstr(format == PCACHE_STATUS_LINE ? " pcache " : "{"));
    free(text);
  }
  close();
}

}  // namespace
}  // namespace pcache
