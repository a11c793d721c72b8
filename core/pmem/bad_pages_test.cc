// SPDX-License-Identifier: GPL-2.0-or-later
// Stores to pages that are really missing: those of a file that was cut under its mapping and, if
// the kernel allows it, poisoned memory. With every persist method of this CPU.
#include "pmem/bad_pages.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pmem/pmem.h"

namespace pcache {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPages = 80;  // no method treats larger copies up to 4 MiB otherwise

// A mapped file whose pages from `good` on are gone.
class CutMapping {
 public:
  explicit CutMapping(size_t good) : file_(memfd_create("pcache-cut", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(file_, kPages * kPage), 0);
    void* p = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    EXPECT_NE(p, MAP_FAILED);
    base_ = static_cast<std::byte*>(p);
    memset(p, 0x11, kPages * kPage);
    EXPECT_EQ(ftruncate(file_, static_cast<off_t>(good * kPage)), 0);
  }
  ~CutMapping() {
    munmap(base_, kPages * kPage);
    close(file_);
  }
  CutMapping(const CutMapping&) = delete;
  CutMapping& operator=(const CutMapping&) = delete;
  std::byte* base() const { return base_; }
  std::unique_ptr<Pmem> pmem(const PersistOps& ops) const {
    return std::make_unique<Pmem>(base_, kPages * kPage, &ops, nullptr);
  }

 private:
  const int file_;
  std::byte* base_ = nullptr;
};

std::vector<PersistOps> all_methods() {
  std::vector<PersistOps> all;
  for (const auto& methods : {persist_methods(), flushcache_variants()})
    for (const PersistOps& ops : methods)
      if (ops.supported()) all.push_back(ops);
  return all;
}

std::vector<std::byte> content(size_t len) {
  std::vector<std::byte> bytes(len);
  for (size_t i = 0; i < len; i++) bytes[i] = static_cast<std::byte>(1 + i % 251);
  return bytes;
}

// For the handler each instruction that stores or flushes is a case of its own: with all lengths,
// each of them meets the first bad byte.
TEST(LostStores, EveryMethodAndLengthReportsAndGoesOn) {
  const CutMapping mapping(70);
  const MediaOff bad{70 * kPage};
  std::vector<size_t> lengths = {1023, 1024, 1025, 2048, 4096, 4097, 32768, 36864};
  for (size_t len = 1; len <= 600; len++) lengths.push_back(len);
  const auto bytes = content(36864 + 64);
  for (const PersistOps& ops : all_methods())
    for (const size_t len : lengths) {
      const auto pmem = mapping.pmem(ops);
      ASSERT_TRUE(pmem->store(MediaOff{bad.v - len}, bytes.data(), len)) << ops.name << " " << len;
      ASSERT_EQ(memcmp(mapping.base() + bad.v - len, bytes.data(), len), 0) << ops.name << len;
      ASSERT_EQ(pmem->bad_pages(), 0u);
      ASSERT_FALSE(pmem->store(MediaOff{bad.v - len + 1}, bytes.data(), len))
          << "the last byte alone, " << ops.name << " " << len;
      // Only the instruction that reaches over the end may be lost.
      const size_t stored = len > kLineBytes ? len - 1 - kLineBytes : 0;
      ASSERT_EQ(memcmp(mapping.base() + bad.v - len + 1, bytes.data(), stored), 0)
          << "what is on good pages is stored, " << ops.name << " " << len;
      ASSERT_FALSE(pmem->store(bad, bytes.data(), len)) << ops.name << " " << len;
      ASSERT_FALSE(pmem->store(bad + 8, bytes.data(), len)) << ops.name << " " << len;
      pmem->fence();
      ASSERT_EQ(pmem->first_bad_page(MediaOff{0}, pmem->size_bytes()).value().v, bad.v);
      ASSERT_FALSE(pmem->readable(bad, 1));
      ASSERT_TRUE(pmem->readable(MediaOff{bad.v - kPage}, kPage));
    }
}

TEST(LostStores, APageThatWasBadStaysBadForThisMapping) {
  const CutMapping mapping(1);
  const PersistOps& ops = persist_methods().front();
  const auto pmem = mapping.pmem(ops);
  const auto bytes = content(3 * kPage);
  EXPECT_FALSE(pmem->store(MediaOff{0}, bytes.data(), 3 * kPage));
  EXPECT_EQ(pmem->bad_pages(), 1u) << "the first that was met: it is lost as a whole";
  EXPECT_FALSE(pmem->store(MediaOff{2 * kPage}, bytes.data(), kPage));
  EXPECT_EQ(pmem->bad_pages(), 2u);
  EXPECT_TRUE(pmem->store(MediaOff{0}, bytes.data(), kPage)) << "the good one beside it";
  EXPECT_FALSE(pmem->first_bad_page(MediaOff{0}, kPage).has_value());
  EXPECT_EQ(pmem->first_bad_page(MediaOff{kPage - 1}, 2).value().v, kPage);
  EXPECT_EQ(pmem->first_bad_page(MediaOff{2 * kPage}, 8 * kPage).value().v, 2 * kPage);
  EXPECT_FALSE(pmem->first_bad_page(MediaOff{3 * kPage}, 77 * kPage).has_value());
  EXPECT_EQ(mapping.pmem(ops)->bad_pages(), 0u) << "a new one starts anew";
}

TEST(LostStores, ManyThreadsAtOnceAndTwoMappings) {
  const CutMapping one(1), other(1);
  const PersistOps& ops = persist_methods().front();
  const auto pmem = one.pmem(ops), beside = other.pmem(ops);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; t++)
    threads.emplace_back([&, t] {
      const auto bytes = content(kPage);
      for (size_t i = 0; i < 100; i++) {
        EXPECT_FALSE(pmem->store(MediaOff{(1 + t) * kPage}, bytes.data(), kPage));
        EXPECT_TRUE(beside->store(MediaOff{t * 1024}, bytes.data(), 1024));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pmem->bad_pages(), 4u);
  EXPECT_EQ(beside->bad_pages(), 0u);
}

// A calibration stores past store().
TEST(LostStores, ACalibrationOverABadPageFails) {
  char path[] = "/dev/shm/pcache-bad-pages-XXXXXX";
  const int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, 8 << 20), 0);
  PmemOptions options;
  options.path = path;
  options.emulate = true;
  auto pmem = Pmem::open(options, Log([](LogLevel, const char*) {}));
  ASSERT_TRUE(pmem.ok()) << pmem.error().text;
  EXPECT_FALSE(pmem.value()->cut_to_bytes().has_value());
  ASSERT_EQ(ftruncate(fd, 7 << 20), 0);
  EXPECT_EQ(pmem.value()->cut_to_bytes().value(), 7u << 20);
  const auto bytes = content(kPage);
  EXPECT_FALSE(pmem.value()->store(MediaOff{(8 << 20) - kPage}, bytes.data(), kPage));
  EXPECT_TRUE(pmem.value()->store(MediaOff{(7 << 20) - kPage}, bytes.data(), kPage));
  EXPECT_EQ(pmem.value()->calibrate(1).error().code, EIO);
  close(fd);
  unlink(path);
}

TEST(LostStores, PoisonedMemory) {
#ifndef MADV_HWPOISON
#define MADV_HWPOISON 100
#endif
  void* p =
      mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(p, MAP_FAILED);
  auto* const base = static_cast<std::byte*>(p);
  memset(p, 0x11, kPages * kPage);
  if (madvise(base + 5 * kPage, kPage, MADV_HWPOISON) != 0) {
    const std::string why = strerror(errno);
    munmap(p, kPages * kPage);
    GTEST_SKIP() << "madvise(MADV_HWPOISON): " << why
                 << " (needs CAP_SYS_ADMIN and a kernel with CONFIG_MEMORY_FAILURE)";
  }
  const auto bytes = content(3 * kPage);
  for (const PersistOps& ops : all_methods()) {
    Pmem pmem(base, kPages * kPage, &ops, nullptr);
    EXPECT_FALSE(pmem.store(MediaOff{4 * kPage}, bytes.data(), 3 * kPage)) << ops.name;
    EXPECT_EQ(pmem.bad_pages(), 1u) << ops.name;
    EXPECT_FALSE(pmem.readable(MediaOff{5 * kPage}, 1));
    EXPECT_TRUE(pmem.store(MediaOff{6 * kPage}, bytes.data(), kPage)) << ops.name;
  }
  munmap(p, kPages * kPage);
}

void store_from_nowhere(const PersistOps& ops) {
  signal(SIGBUS, SIG_DFL);  // a sanitizer's own handler would make an exit of it
  const CutMapping good(kPages);
  const CutMapping gone(0);
  (void)good.pmem(ops)->store(MediaOff{0}, gone.base(), kPage);
}

// A bad source buffer is the caller's error, as with memcpy().
TEST(LostStoresDeathTest, ABadSourceIsNotTakenForABadPage) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const PersistOps& ops : all_methods())
    EXPECT_EXIT(
        {
          store_from_nowhere(ops);
          _exit(0);
        },
        ::testing::KilledBySignal(SIGBUS), "")
        << ops.name;
}

}  // namespace
}  // namespace pcache
