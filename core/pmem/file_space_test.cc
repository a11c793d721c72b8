// SPDX-License-Identifier: GPL-2.0-or-later
// Uses Pmem, which opens, undoes and keeps.
#include "pmem/file_space.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "base/forbid_for_test.h"
#include "pmem/pmem_for_test.h"

namespace pcache {
namespace {

// A provisional open leaves the file as it is, whatever was prepared, until keep().
class PmemProvisional : public PmemInMemory {
 protected:
  PmemOptions looking(uint64_t create_bytes = 0) const {
    PmemOptions options = emulated(create_bytes);
    options.provisional = true;
    return options;
  }
  struct Look {
    int64_t size, blocks, mtime_ns;
    bool operator==(const Look&) const = default;
  };
  Look look() const {
    const struct stat st = stat_file();
    return {st.st_size, st.st_blocks, st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec};
  }
  void write_at(off_t at, const std::string& text) {
    const int fd = ::open(path_.c_str(), O_RDWR);
    ASSERT_EQ(pwrite(fd, text.data(), text.size(), at), static_cast<ssize_t>(text.size()));
    ::close(fd);
  }
};

TEST_F(PmemProvisional, LookingAtHolesAllocatesNothingThatStays) {
  make_file(kMiB);
  write_at(8192, "something");
  const Look before = look();
  {
    const auto pmem = open(looking()).take();
    char all[4096];
    for (uint64_t at = 0; at < kMiB; at += sizeof all)
      EXPECT_TRUE(pmem->load(all, MediaOff{at}, sizeof all));
  }
  EXPECT_EQ(look(), before);
}

TEST_F(PmemProvisional, WhatWasMadeReadyAndNotKeptIsAsItWas) {
  make_file(kMiB);
  write_at(8192, "something");
  const Look before = look();
  {
    PmemOptions options = looking(3 * kMiB);
    options.prefault = true;
    const auto pmem = open(options).take();
    EXPECT_EQ(look(), before) << "by open() alone";
    EXPECT_EQ(pmem->size_bytes(), kMiB);
    EXPECT_EQ(pmem->size_when_ready(), 3 * kMiB);
    ASSERT_TRUE(pmem->make_ready(true).ok());
    EXPECT_EQ(pmem->size_bytes(), 3 * kMiB);
    EXPECT_EQ(look().blocks * 512, static_cast<int64_t>(3 * kMiB));
  }
  EXPECT_EQ(look(), before);
  char read[10] = {};
  EXPECT_TRUE(open(looking()).take()->load(read, MediaOff{8192}, 9));
  EXPECT_STREQ(read, "something");
}

TEST_F(PmemProvisional, ItIsNotExtendedUnasked) {
  make_file(kMiB);
  const auto pmem = open(looking(3 * kMiB)).take();
  ASSERT_TRUE(pmem->make_ready(false).ok());
  pmem->keep();
  EXPECT_TRUE(pmem->store(MediaOff{kMiB - 3}, "abc", 3));
  EXPECT_EQ(pmem->size_bytes(), kMiB);
  EXPECT_EQ(look().size, static_cast<int64_t>(kMiB));
}

TEST_F(PmemProvisional, WhatIsKeptStays) {
  make_file(kMiB);
  {
    const auto pmem = open(looking(3 * kMiB)).take();
    ASSERT_TRUE(pmem->make_ready(true).ok());
    pmem->keep();
    EXPECT_TRUE(pmem->store(MediaOff{2 * kMiB}, "abc", 3));
  }
  EXPECT_EQ(look().blocks * 512, static_cast<int64_t>(3 * kMiB));
  char read[4] = {};
  EXPECT_TRUE(open(looking()).take()->load(read, MediaOff{2 * kMiB}, 3));
  EXPECT_STREQ(read, "abc");
}

TEST_F(PmemProvisional, AFileThatWasMadeAndNotKeptIsGone) {
  {
    const auto pmem = open(looking(kMiB)).take();
    EXPECT_EQ(pmem->size_bytes(), 0u);
    EXPECT_TRUE(pmem->starts_with_zeros(20480).value());
    ASSERT_TRUE(pmem->make_ready(true).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(PmemProvisional, AHoleThatEndsWithinAPageComesBackToo) {
  make_file(kMiB + 12345);
  const Look before = look();
  { ASSERT_TRUE(open(looking(2 * kMiB)).take()->make_ready(true).ok()); }
  EXPECT_EQ(look(), before);
}

// Pages that were allocated and never written show as holes there.
TEST_F(PmemProvisional, WhatWasAllocatedBeforeStaysAllocated) {
  make_file(0);
  const int fd = ::open(path_.c_str(), O_RDWR);
  ASSERT_EQ(fallocate(fd, 0, 0, kMiB), 0);
  ::close(fd);
  const Look before = look();
  { ASSERT_TRUE(open(looking(2 * kMiB)).take()->make_ready(true).ok()); }
  EXPECT_EQ(look(), before);
}

TEST_F(PmemProvisional, StartsWithZeros) {
  make_file(6000);  // one page is mapped, the rest not
  EXPECT_TRUE(open(looking(kMiB)).take()->starts_with_zeros(20480).value());
  write_at(5999, "x");
  EXPECT_FALSE(open(looking(kMiB)).take()->starts_with_zeros(20480).value());
  EXPECT_TRUE(open(looking(kMiB)).take()->starts_with_zeros(5999).value());
  make_file(100);
  EXPECT_TRUE(open(looking(kMiB)).take()->starts_with_zeros(20480).value());
  write_at(99, "x");
  EXPECT_FALSE(open(looking(kMiB)).take()->starts_with_zeros(20480).value());
}

// A program that ignores the lock copies the file there meanwhile. (On tmpfs a hole cannot be told
// from a page that reading has made.)
TEST_F(PmemFile, WhatOthersWroteIntoAHoleStaysUnlessTheHoleWasOurs) {
  struct statfs fs;
  if (statfs(dir_.c_str(), &fs) == 0 && fs.f_type == TMPFS_MAGIC) GTEST_SKIP() << "on tmpfs";
  make_file(kMiB);
  const int fd = ::open(path_.c_str(), O_RDWR);
  PmemOptions options = emulated();
  options.provisional = true;
  {
    const auto pmem = open(options).take();
    ASSERT_EQ(pwrite(fd, "theirs", 6, kMiB / 2), 6);
    ASSERT_EQ(fsync(fd), 0);
    ASSERT_GT(stat_file().st_blocks, 0);
  }
  char read[7] = {};
  EXPECT_EQ(pread(fd, read, 6, kMiB / 2), 6);
  EXPECT_STREQ(read, "theirs");
  ::close(fd);
}

// The exit status of `body` in a process in which fallocate() finds no space.
int without_space(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    forbid_in_this_thread(SYS_fallocate, ENOSPC);
    _exit(body());
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// XFS needs as much free space as the whole file, although no block is missing.
TEST_F(PmemFile, WhatHasItsBlocksIsNotAllocatedAgain) {
  const auto opens = [&] { return open(emulated()).ok() ? 0 : 1; };
  make_file(0);
  int fd = ::open(path_.c_str(), O_RDWR);
  ASSERT_EQ(fallocate(fd, 0, 0, kMiB), 0);
  EXPECT_EQ(without_space(opens), 0) << "allocated, never written";
  const std::vector<char> data(kMiB, 'x');
  ASSERT_EQ(pwrite(fd, data.data(), data.size(), 0), static_cast<ssize_t>(data.size()));
  EXPECT_EQ(without_space(opens), 0) << "written, perhaps not yet to the disk";
  ASSERT_EQ(fsync(fd), 0);
  EXPECT_EQ(without_space(opens), 0) << "on the disk";
  ASSERT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kMiB / 2, 4096), 0);
  EXPECT_EQ(without_space(opens), 1) << "with a hole";
  ::close(fd);
  { open(emulated()).take(); }
  EXPECT_EQ(without_space(opens), 0) << "which is filled now";
}

}  // namespace
}  // namespace pcache
