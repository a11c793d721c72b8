// SPDX-License-Identifier: GPL-2.0-or-later
// A mapped file that grows.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstring>
#include <thread>

#include "pmem/pmem_for_test.h"

namespace pcache {
namespace {

class PmemGrows : public PmemFile {
 protected:
  PmemOptions with_room(uint64_t create_bytes = kMiB) const {
    PmemOptions options = emulated(create_bytes);
    options.with_room = true;
    return options;
  }
  uint64_t file_bytes() const { return static_cast<uint64_t>(stat_file().st_size); }
  uint64_t allocated_bytes() const { return static_cast<uint64_t>(stat_file().st_blocks) * 512; }
  static bool holds(const Pmem& pmem, uint64_t at, const std::string& text) {
    std::string read(text.size(), '\0');
    return pmem.load(read.data(), MediaOff{at}, read.size()) && read == text;
  }
};

TEST_F(PmemGrows, InPlaceAndForGood) {
  {
    const auto pmem = open(with_room()).take();
    EXPECT_GE(pmem->most_bytes(), 4 * kMiB);
    ASSERT_TRUE(pmem->store(MediaOff{kMiB - 4}, "old", 4));
    for (uint64_t bytes = kMiB + 4096; bytes < 5 * kMiB; bytes += kMiB + 4096) {
      ASSERT_TRUE(pmem->grow(bytes).ok());
      EXPECT_EQ(pmem->size_bytes(), bytes);
      EXPECT_EQ(file_bytes(), bytes);
      EXPECT_GE(allocated_bytes(), bytes);
      ASSERT_TRUE(pmem->store(MediaOff{bytes - 4}, "new", 4));
    }
    // Over the border of two mappings.
    ASSERT_TRUE(pmem->store(MediaOff{kMiB - 2}, "both", 4));
    pmem->fence();
    EXPECT_TRUE(holds(*pmem, kMiB - 4, "olboth"));
  }
  const auto pmem = open(emulated()).take();
  EXPECT_TRUE(holds(*pmem, kMiB - 4, "olboth"));
  EXPECT_TRUE(holds(*pmem, 2 * kMiB + 2 * 4096 - 4, "new"));
}

// As attach opens it: a blank file of a size that comes later.
TEST_F(PmemGrows, AfterItWasMadeReady) {
  PmemOptions options = with_room(2 * kMiB);
  options.provisional = true;
  const auto pmem = open(options).take();
  ASSERT_TRUE(pmem->make_ready(true).ok());
  pmem->keep();
  EXPECT_EQ(pmem->size_bytes(), 2 * kMiB);
  ASSERT_TRUE(pmem->grow(3 * kMiB).ok());
  EXPECT_TRUE(pmem->store(MediaOff{3 * kMiB - 4}, "new", 4));
}

TEST_F(PmemGrows, IntoWhatOthersHaveMadeLonger) {
  const auto pmem = open(with_room()).take();
  std::filesystem::resize_file(path_, 3 * kMiB + 100);
  EXPECT_EQ(pmem->file_bytes(), 3 * kMiB + 100);
  EXPECT_EQ(pmem->size_bytes(), kMiB);
  ASSERT_TRUE(pmem->grow(pmem->file_bytes()).ok());
  EXPECT_EQ(pmem->size_bytes(), 3 * kMiB) << "whole pages alone";
  EXPECT_EQ(file_bytes(), 3 * kMiB + 100);
  EXPECT_GE(allocated_bytes(), 3 * kMiB) << "a hole of a full file system would be a SIGBUS";
  ASSERT_TRUE(pmem->grow(4 * kMiB).ok());
  EXPECT_TRUE(pmem->store(MediaOff{3 * kMiB + 98}, "last", 4));
}

TEST_F(PmemGrows, WhatCannotBeAllocatedLeavesTheFileAsItWas) {
  const auto pmem = open(with_room()).take();
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const struct rlimit little = {2 * kMiB, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &little), 0);
  const auto grown = pmem->grow(3 * kMiB);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  ASSERT_FALSE(grown.ok());
  EXPECT_THAT(grown.error().text, HasSubstr(path_.string()));
  EXPECT_EQ(pmem->size_bytes(), kMiB);
  EXPECT_EQ(file_bytes(), kMiB);
  EXPECT_TRUE(pmem->grow(3 * kMiB).ok());
}

// Only what is asked for is allocated.
TEST_F(PmemGrows, IntoAPartOfWhatIsThere) {
  const auto pmem = open(with_room()).take();
  std::filesystem::resize_file(path_, 64 * kMiB);
  ASSERT_TRUE(pmem->grow(3 * kMiB).ok());
  EXPECT_EQ(pmem->size_bytes(), 3 * kMiB);
  EXPECT_EQ(file_bytes(), 64 * kMiB);
  EXPECT_LT(allocated_bytes(), 8 * kMiB);
}

TEST_F(PmemGrows, AFileThatWasCutIsRefused) {
  const auto pmem = open(with_room()).take();
  std::filesystem::resize_file(path_, kMiB / 2);
  const auto grown = pmem->grow(3 * kMiB);
  ASSERT_FALSE(grown.ok());
  EXPECT_THAT(grown.error().text, HasSubstr("was cut to 524288 bytes"));
  EXPECT_EQ(file_bytes(), kMiB / 2);
}

TEST_F(PmemGrows, NotWithoutRoom) {
  EXPECT_EQ(open(emulated(kMiB)).take()->most_bytes(), kMiB);
  PmemOptions only_read = with_room();
  only_read.read_only = true;
  EXPECT_EQ(open(only_read).take()->most_bytes(), kMiB);
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const struct rlimit much = {pages * kPageBytes + (uint64_t{4} << 40), before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &much), 0);
  EXPECT_EQ(open(with_room()).take()->most_bytes(), kMiB) << "others may need it";
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
}

// Bytes that are mapped in this process, and that nobody may access.
uint64_t reserved_bytes() {
  uint64_t bytes = 0, first = 0, end = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find(" ---p ") != line.npos &&
        sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64, &first, &end) == 2)
      bytes += end - first;
  return bytes;
}

TEST_F(PmemGrows, TheSameAddressSpaceServesTheNextOne) {
  const auto open_two = [&] {
    const auto pmem = open(with_room()).take();
    ASSERT_TRUE(pmem->grow(2 * kMiB).ok());
    PmemOptions other = with_room();
    other.path += ".other";
    EXPECT_GT(open(other).take()->most_bytes(), kMiB) << "beside the first";
    std::filesystem::remove(other.path);
  };
  open_two();
  const uint64_t before = reserved_bytes();
  for (int i = 0; i < 4; i++) open_two();
  EXPECT_LT(reserved_bytes(), before + (uint64_t{1} << 30));
}

TEST_F(PmemGrows, BadPagesOfWhatIsNewAreNoted) {
  const auto pmem = open(with_room()).take();
  ASSERT_TRUE(pmem->grow(3 * kMiB).ok());
  std::filesystem::resize_file(path_, 2 * kMiB);
  EXPECT_TRUE(pmem->store(MediaOff{2 * kMiB - 4}, "good", 4));
  EXPECT_FALSE(pmem->store(MediaOff{2 * kMiB + 4096}, "lost", 4));
  EXPECT_EQ(pmem->bad_pages(), 1u);
  ASSERT_TRUE(pmem->first_bad_page(MediaOff{0}, 3 * kMiB));
  EXPECT_EQ(pmem->first_bad_page(MediaOff{0}, 3 * kMiB)->v, 2 * kMiB + 4096);
  char byte;
  EXPECT_FALSE(pmem->load(&byte, MediaOff{3 * kMiB - 1}, 1));
}

// For tsan.
TEST_F(PmemGrows, WhileOthersStoreAndLoad) {
  const auto pmem = open(with_room()).take();
  std::atomic<bool> ends{false};
  std::atomic<int> begun{0};
  const auto use = [&](uint64_t thread) {
    for (uint64_t n = 0; !ends || n < 1000; n++) {
      const uint64_t pages = pmem->size_bytes() / kPageBytes;
      const MediaOff at{(pages - 1 - n % 16) * kPageBytes + thread * 64};
      EXPECT_TRUE(pmem->store(at, &n, sizeof n));
      uint64_t found = 0;
      EXPECT_TRUE(pmem->load(&found, at, sizeof found));
      EXPECT_EQ(found, n);
      if (n == 100) begun++;
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 2; i++) threads.emplace_back(use, i);
  while (begun < 2) std::this_thread::yield();
  for (uint64_t bytes = 2 * kMiB; bytes <= 16 * kMiB; bytes += kMiB)
    EXPECT_TRUE(pmem->grow(bytes).ok());
  ends = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(PmemInMemory, PagesOfWhatIsNewAreMadeBeside) {
  PmemOptions options = emulated(kMiB);
  options.with_room = true;
  const auto pmem = open(options).take();
  pmem->prefault_beside();
  ASSERT_TRUE(pmem->grow(8 * kMiB).ok());
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (bytes_present() < 8 * kMiB && std::chrono::steady_clock::now() < limit)
    std::this_thread::yield();
  EXPECT_EQ(bytes_present(), 8 * kMiB);
}

// From the middle of a huge page on, of which the rest stays as it is.
TEST_F(PmemInMemory, WhatIsNewIsMappedInHugePagesToo) {
  PmemOptions options = emulated(kBytes + 4096);
  options.with_room = true;
  const auto pmem = open(options).take();
  pmem->prefault_beside();
  ASSERT_TRUE(pmem->grow(2 * kBytes).ok());
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const auto done = [&] {
    return bytes_present() == 2 * kBytes && pmem->huge_bytes() == bytes_huge();
  };
  while (!done() && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  EXPECT_EQ(bytes_present(), 2 * kBytes);
  EXPECT_EQ(pmem->huge_bytes(), bytes_huge());
}

}  // namespace
}  // namespace pcache
