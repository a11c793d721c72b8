// SPDX-License-Identifier: GPL-2.0-or-later
// Uses emulated files; tests/dax_vm.sh has devdax and fsdax, in a virtual machine.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "pmem/pmem_for_test.h"

namespace pcache {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(PmemInMemory, MakesNoPagesUnlessAskedTo) {
  const auto pmem = open(emulated(kBytes)).take();
  EXPECT_EQ(bytes_present(), 0u);
}

TEST_F(PmemInMemory, AllPagesAreThereWhenOpenReturns) {
  for (int round = 0; round < 2; round++) {  // of a new file, and of one that has its pages
    const auto pmem = open(prefaulted()).take();
    EXPECT_EQ(bytes_present(), kBytes);
  }
}

// Of a file that has its pages, too; and the next one to map it finds them.
TEST_F(PmemInMemory, PagesAreHugeWhereTheKernelMakesThem) {
  PmemOptions options = prefaulted();
  options.huge_pages = false;
  const uint64_t number = 0x70636163;
  {
    const auto pmem = open(options).take();
    EXPECT_EQ(pmem->huge_bytes(), 0u);
    EXPECT_TRUE(pmem->store(MediaOff{kBytes - 8}, &number, sizeof number));
    pmem->fence();
  }
  options.huge_pages = true;
  for (int round = 0; round < 4; round++) {
    options.with_room = round % 2 == 1;  // mapped elsewhere
    const auto pmem = open(options).take();
    EXPECT_EQ(pmem->huge_bytes(), bytes_huge());
    EXPECT_EQ(bytes_present(), kBytes);
    uint64_t found = 0;
    EXPECT_TRUE(pmem->load(&found, MediaOff{kBytes - 8}, sizeof found));
    EXPECT_EQ(found, number);
    if (round == 0 && pmem->huge_bytes() == 0)
      GTEST_SKIP() << "this kernel makes no huge pages of tmpfs";
    EXPECT_GT(pmem->huge_bytes(), 0u) << "round " << round;
  }
}

TEST_F(PmemInMemory, AllPagesAreThereInTheEndWhenMadeBeside) {
  const auto pmem = open(emulated(kBytes)).take();
  pmem->prefault_beside();
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (bytes_present() < kBytes && std::chrono::steady_clock::now() < limit)
    std::this_thread::yield();
  EXPECT_EQ(bytes_present(), kBytes);
}

// Stores made meanwhile are kept, and the thread ends before the mapping does.
TEST_F(PmemInMemory, IsUsedAndClosedWhilePagesAreMade) {
  for (uint64_t round = 0; round < 100; round++) {
    const auto pmem = open(emulated(kBytes)).take();
    pmem->prefault_beside();
    const MediaOff to{round * 7919 * 4096 % kBytes};
    EXPECT_TRUE(pmem->store(to, &round, sizeof round));
    pmem->fence();
    uint64_t found = 0;
    EXPECT_TRUE(pmem->load(&found, to, sizeof found));
    EXPECT_EQ(found, round);
  }
}

TEST_F(PmemInMemory, MakesNoPagesOfWhatIsSparseOrOnlyRead) {
  make_file(kBytes);
  for (const bool sparse : {true, false}) {
    PmemOptions options = prefaulted();
    options.create_bytes = 0;
    options.keep_sparse = sparse;
    options.read_only = !sparse;
    const auto pmem = open(options).take();
    pmem->prefault_beside();
    EXPECT_EQ(bytes_present(), 0u);
  }
  EXPECT_EQ(stat_file().st_blocks, 0);
}

// A hole that was punched later: pages at both ends do not mean that there is none.
TEST_F(PmemInMemory, FillsAHoleInTheMiddle) {
  { open(prefaulted()).take(); }
  const int fd = ::open(path_.c_str(), O_RDWR);
  ASSERT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 50 * kMiB, kMiB), 0);
  close(fd);
  const auto pmem = open(emulated()).take();
  EXPECT_EQ(static_cast<uint64_t>(stat_file().st_blocks) * 512, kBytes);
}

TEST_F(PmemFile, CreatesStoresAndComesBack) {
  const std::string text = "kept across opens";
  {
    auto pmem = open(emulated(kMiB)).take();
    EXPECT_EQ(pmem->size_bytes(), kMiB);
    EXPECT_EQ(pmem->kind(), PmemKind::kEmulated);
    EXPECT_STREQ(pmem->persist_name(), "flushcache");
    EXPECT_TRUE(pmem->store(MediaOff{kMiB - text.size()}, text.data(), text.size()));
    pmem->fence();
  }
  const struct stat st = stat_file();
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_EQ(static_cast<uint64_t>(st.st_size), kMiB);

  auto pmem = open(emulated()).take();
  std::string read(text.size(), '\0');
  EXPECT_TRUE(pmem->load(read.data(), MediaOff{kMiB - text.size()}, text.size()));
  EXPECT_EQ(read, text);
}

TEST_F(PmemFile, CreatesWithItsBlocksAllocated) {
  auto pmem = open(emulated(kMiB)).take();
  EXPECT_GE(static_cast<uint64_t>(stat_file().st_blocks) * 512, kMiB);
}

TEST_F(PmemFile, FillsTheHolesOfAnExistingFile) {
  make_file(kMiB);
  auto pmem = open(emulated()).take();
  EXPECT_GE(static_cast<uint64_t>(stat_file().st_blocks) * 512, kMiB);
  EXPECT_EQ(pmem->size_bytes(), kMiB);
}

TEST_F(PmemFile, ExtendsAndKeepsWhatIsThere) {
  EXPECT_TRUE(open(emulated(kMiB)).take()->store(MediaOff{0}, "abc", 3));
  auto pmem = open(emulated(2 * kMiB)).take();
  EXPECT_EQ(pmem->size_bytes(), 2 * kMiB);
  char read[3];
  EXPECT_TRUE(pmem->load(read, MediaOff{0}, 3));
  EXPECT_EQ(memcmp(read, "abc", 3), 0);
}

TEST_F(PmemFile, NeverShrinks) {
  make_file(2 * kMiB);
  EXPECT_EQ(open(emulated(kMiB)).take()->size_bytes(), 2 * kMiB);
  EXPECT_EQ(static_cast<uint64_t>(stat_file().st_size), 2 * kMiB);
}

TEST_F(PmemFile, MapsWholePages) {
  EXPECT_EQ(open(emulated(2 * 4096 + 100)).take()->size_bytes(), 2 * 4096u);
}

TEST_F(PmemFile, WarnsOncePerOpenThatItIsEmulated) {
  { open(emulated(kMiB)).take(); }
  EXPECT_THAT(warnings_, ElementsAre(AllOf(HasSubstr(path_.string()), HasSubstr("emulated"),
                                           HasSubstr("do not survive power loss"))));
  open(emulated()).take();
  EXPECT_EQ(warnings_.size(), 2u);
}

TEST_F(PmemFile, ReadOnly) {
  EXPECT_TRUE(open(emulated(kMiB)).take()->store(MediaOff{64}, "abc", 3));
  PmemOptions options = emulated();
  options.read_only = true;
  auto first = open(options).take();
  auto second = open(options).take();  // readers share
  char read[3];
  EXPECT_TRUE(second->load(read, MediaOff{64}, 3));
  EXPECT_EQ(memcmp(read, "abc", 3), 0);
  EXPECT_THAT(refusal(emulated(), EBUSY), HasSubstr("in use"));
}

TEST_F(PmemFile, ReadOnlyNeedsNoWritePermissionAndAllocatesNothing) {
  make_file(kMiB);
  ASSERT_EQ(chmod(path_.c_str(), 0400), 0);
  const auto blocks = stat_file().st_blocks;
  PmemOptions options = emulated();
  options.read_only = true;
  EXPECT_TRUE(open(options).ok());
  EXPECT_EQ(stat_file().st_blocks, blocks);
}

TEST_F(PmemFile, LoadReportsABadPage) {
  auto pmem = open(emulated(kMiB)).take();
  std::filesystem::resize_file(path_, kMiB / 2);
  char read[64];
  EXPECT_TRUE(pmem->load(read, MediaOff{0}, sizeof read));
  EXPECT_FALSE(pmem->load(read, MediaOff{kMiB / 2}, sizeof read));
}

TEST_F(PmemFile, RefusesAFileThatIsNotOnDaxWithoutBeingTold) {
  make_file(kMiB);
  PmemOptions options = emulated();
  options.emulate = false;
  EXPECT_THAT(refusal(options, EINVAL),
              AllOf(HasSubstr("not on a DAX file system"), HasSubstr("page cache"),
                    HasSubstr("does not survive power loss"), HasSubstr("emulate_pmem=1")));
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_EQ(stat_file().st_blocks, 0) << "a refused file is left as it was";
}

// libpmem2 believes this variable more than the kernel; we do not.
TEST_F(PmemFile, TheEnvironmentCannotMakeAFileDurable) {
  make_file(kMiB);
  PmemOptions options = emulated();
  options.emulate = false;
  setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1);
  EXPECT_THAT(refusal(options, EINVAL), HasSubstr("not on a DAX file system"));
  options.emulate = true;
  EXPECT_EQ(open(options).take()->kind(), PmemKind::kEmulated);
  unsetenv("PMEM2_FORCE_GRANULARITY");
}

TEST_F(PmemFile, MissingFile) {
  EXPECT_THAT(refusal(emulated(), ENOENT),
              AllOf(HasSubstr("cache_size="), HasSubstr("emulate_pmem=1")));
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(PmemFile, EmptyFile) {
  make_file(0);
  EXPECT_THAT(refusal(emulated(), EINVAL), AllOf(HasSubstr("0 bytes"), HasSubstr("cache_size=")));
}

TEST_F(PmemFile, AFileBelowOnePage) {
  make_file(100);
  EXPECT_THAT(refusal(emulated(), EINVAL), HasSubstr("100 bytes"));
}

TEST_F(PmemFile, WhatIsNoFile) {
  PmemOptions options = emulated();
  options.path = dir_;
  EXPECT_THAT(refusal(options, EINVAL), HasSubstr("is a directory"));

  options.path = dir_ / "fifo";
  ASSERT_EQ(mkfifo(options.path.c_str(), 0600), 0);
  EXPECT_THAT(refusal(options, EINVAL), HasSubstr("is a FIFO"));

  options.path = dir_ / "socket";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(options.path.size(), sizeof address.sun_path);
  strcpy(address.sun_path, options.path.c_str());
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_THAT(refusal(options, EINVAL), HasSubstr("is a socket"));
  close(fd);

  options.path = "/dev/null";
  EXPECT_THAT(refusal(options, EINVAL), HasSubstr("not a devdax one"));
  options.create_bytes = kMiB;
  EXPECT_THAT(refusal(options, EINVAL), HasSubstr("leave cache_size out"));
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(PmemFile, CreateNeedsEmulate) {
  PmemOptions options = emulated(kMiB);
  options.emulate = false;
  EXPECT_THAT(refusal(options, EINVAL), HasSubstr("emulate_pmem=1"));
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(PmemFile, ReadOnlyMakesAndExtendsNothing) {
  PmemOptions options = emulated(kMiB);
  options.read_only = true;
  EXPECT_THAT(refusal(options, ENOENT), HasSubstr("no such file"));
  EXPECT_FALSE(std::filesystem::exists(path_));
  ASSERT_TRUE(open(emulated(kMiB)).ok());
  EXPECT_TRUE(open(options).ok()) << "it has that size";
  options.create_bytes = 2 * kMiB;
  EXPECT_THAT(refusal(options, EINVAL), HasSubstr("readonly=1"));
  EXPECT_EQ(std::filesystem::file_size(path_), kMiB);
}

TEST_F(PmemFile, AFailedCreateLeavesNothing) {
  // Less than a page: created, then refused by the step that maps.
  EXPECT_THAT(refusal(emulated(100), EINVAL), HasSubstr("100 bytes"));
  EXPECT_FALSE(std::filesystem::exists(path_));
  // More than the file system has.
  const Result<std::unique_ptr<Pmem>> result = open(emulated(uint64_t{1} << 50));
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().code, ::testing::AnyOf(ENOSPC, EFBIG)) << result.error().text;
  EXPECT_THAT(result.error().text, AllOf(HasSubstr(path_.string()), HasSubstr("1125899906842624")));
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(PmemFile, AFailedExtendLeavesTheFileAsItWas) {
  make_file(kMiB);
  EXPECT_FALSE(open(emulated(uint64_t{1} << 50)).ok());
  EXPECT_EQ(static_cast<uint64_t>(stat_file().st_size), kMiB);
}

TEST_F(PmemFile, ABadPersistMethodIsFoundBeforeAnythingIsMade) {
  PmemOptions options = emulated(kMiB);
  options.persist = "sometimes";
  const Result<std::unique_ptr<Pmem>> result = open(options);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, EINVAL);
  EXPECT_THAT(result.error().text, HasSubstr("persist=sometimes"));
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(PmemFile, OneOpenAtATime) {
  auto pmem = open(emulated(kMiB)).take();
  EXPECT_THAT(refusal(emulated(), EBUSY),
              AllOf(HasSubstr("another process"), HasSubstr("another open in this one")));
  PmemOptions reader = emulated();
  reader.read_only = true;
  EXPECT_THAT(refusal(reader, EBUSY), HasSubstr("in use"));
  EXPECT_EQ(warnings_.size(), 1u);
  pmem.reset();
  EXPECT_TRUE(open(emulated()).ok());
}

TEST_F(PmemFile, TheLockComesBeforeTheExtension) {
  auto pmem = open(emulated(kMiB)).take();
  EXPECT_THAT(refusal(emulated(2 * kMiB), EBUSY), HasSubstr("in use"));
  EXPECT_EQ(static_cast<uint64_t>(stat_file().st_size), kMiB);
}

// The child holds the lock from before its message until it is told to end.
TEST_F(PmemFile, OneProcessAtATime) {
  make_file(kMiB);
  int ready[2], end[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(end), 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte = 0;
    close(end[1]);
    const int fd = ::open(path_.c_str(), O_RDWR);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0 || write(ready[1], &byte, 1) != 1) _exit(1);
    _exit(read(end[0], &byte, 1) == 0 ? 0 : 2);
  }
  close(end[0]);
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_THAT(refusal(emulated(), EBUSY), HasSubstr("another process"));
  close(end[1]);
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(open(emulated()).ok());
  close(ready[0]);
  close(ready[1]);
}

// Passes `ctx` on and counts the calls.
struct Counter {
  int copies = 0, fences = 0;
};
constexpr PersistOps kCounting = {"counting",
                                  [](void* ctx, std::byte* dst, const void* src, size_t len) {
                                    static_cast<Counter*>(ctx)->copies++;
                                    memcpy(dst, src, len);
                                  },
                                  [](void* ctx) { static_cast<Counter*>(ctx)->fences++; },
                                  [] { return true; }};

TEST(PmemOverMemory, PassesEverythingThroughItsOps) {
  std::vector<std::byte> memory(4096);
  Counter counter;
  Pmem pmem(memory.data(), memory.size(), &kCounting, &counter);
  EXPECT_EQ(pmem.kind(), PmemKind::kSimulated);
  EXPECT_STREQ(pmem.persist_name(), "counting");
  EXPECT_TRUE(pmem.store(MediaOff{4093}, "abc", 3));
  pmem.fence();
  EXPECT_EQ(counter.copies, 1);
  EXPECT_EQ(counter.fences, 1);
  char read[3];
  EXPECT_TRUE(pmem.load(read, MediaOff{4093}, 3));
  EXPECT_EQ(memcmp(read, "abc", 3), 0);
}

TEST(PmemKindName, EveryKind) {
  EXPECT_STREQ(pmem_kind_name(PmemKind::kDevdax), "devdax");
  EXPECT_STREQ(pmem_kind_name(PmemKind::kFsdax), "fsdax");
  EXPECT_STREQ(pmem_kind_name(PmemKind::kEmulated), "emulated");
  EXPECT_STREQ(pmem_kind_name(PmemKind::kSimulated), "simulated");
}

}  // namespace
}  // namespace pcache
