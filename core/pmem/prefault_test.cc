// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/prefault.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/ids.h"
#include "pmem/checked_copy.h"

namespace pcache {
namespace {

constexpr uint64_t kBytes = 66 << 20;  // more than a piece

class PrefaultOfAFile : public ::testing::Test {
 protected:
  void SetUp() override {
    install_checked_copy_handler();
    fd_ = memfd_create("prefault", 0);
    ASSERT_GE(fd_, 0);
    ASSERT_EQ(ftruncate(fd_, kBytes), 0);
    void* mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    ASSERT_NE(mapped, MAP_FAILED);
    base_ = static_cast<std::byte*>(mapped);
  }
  void TearDown() override {
    munmap(base_, kBytes);
    close(fd_);
  }

  std::byte* base_ = nullptr;
  int fd_ = -1;
};

TEST_F(PrefaultOfAFile, ReadsEachPage) {
  Prefault prefault(base_, kBytes, nullptr);
  prefault.run();
  EXPECT_EQ(prefault.pages_read(), kBytes / kPageBytes);
}

// The file ends before the mapping does: its last pages are as bad as poisoned ones.
TEST_F(PrefaultOfAFile, IsEndedByNoBadPage) {
  ASSERT_EQ(ftruncate(fd_, kBytes - kPageBytes), 0);
  Prefault prefault(base_, kBytes, nullptr);
  prefault.run();
  EXPECT_EQ(prefault.pages_read(), (uint64_t{64} << 20) / kPageBytes);  // the second piece has it
}

// What the kernel refuses, here for the file's offsets at addresses of whole 2 MiB, is mapped as it
// is.
TEST_F(PrefaultOfAFile, MakesPagesOf4KiBWhereItMayMakeNoLargerOnes) {
  constexpr uint64_t kBehind = kBytes - kPageBytes;
  auto* const room = static_cast<std::byte*>(
      mmap(nullptr, 2 * kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(room, MAP_FAILED);
  std::byte* odd = room;
  while (reinterpret_cast<uintptr_t>(odd) % (2 << 20) != kPageBytes) odd += kPageBytes;
  ASSERT_EQ(mmap(odd, kBehind, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd_, 0), odd);
  std::atomic<uint64_t> huge_bytes{0};
  Prefault prefault(odd, kBehind, &huge_bytes);
  prefault.run();
  EXPECT_EQ(huge_bytes, 0u);
  EXPECT_EQ(prefault.pages_read(), kBehind / kPageBytes);
  munmap(room, 2 * kBytes);
}

// They are there when madvise() looks, and gone when they are read: the thread may not block
// SIGBUS, by which the kernel would end the process.
TEST_F(PrefaultOfAFile, IsEndedByNoPageThatGoesBadMeanwhile) {
  for (int round = 0; round < 100; round++) {
    ASSERT_EQ(ftruncate(fd_, kBytes), 0);
    Prefault prefault(base_, kBytes, nullptr);
    prefault.start();
    while (prefault.pages_read() == 0) std::this_thread::yield();
    ASSERT_EQ(ftruncate(fd_, 0), 0);
  }
}

}  // namespace
}  // namespace pcache
