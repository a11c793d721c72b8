// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/persist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "pmem/cpu.h"

namespace pcache {
namespace {

using ::testing::HasSubstr;

std::vector<const PersistOps*> runnable() {
  std::vector<const PersistOps*> all;
  for (const PersistOps& ops : persist_methods())
    if (ops.supported()) all.push_back(&ops);
  for (const PersistOps& ops : flushcache_variants())
    if (ops.supported()) all.push_back(&ops);
  return all;
}

constexpr size_t kGuardBytes = 2 * kLineBytes;

// A source and a destination whose first bytes are line-aligned, with guards round the destination.
class Arena {
 public:
  explicit Arena(size_t max_len)
      : size_(kGuardBytes + max_len + 2 * kGuardBytes),
        dst_(allocate(size_)),
        src_(allocate(size_)),
        want_(allocate(size_)) {
    for (size_t i = 0; i < size_; i++) src_[i] = std::byte(1 + i * 7 % 251);
  }

  // Copies and checks every byte that could have changed.
  void check(const PersistOps& ops, size_t dst_at, size_t src_at, size_t len) {
    const size_t from = kGuardBytes + dst_at, used = from + len + kGuardBytes;
    ASSERT_LE(used, size_);
    memset(dst_.get(), kOld, used);
    ops.copy(nullptr, &dst_[from], &src_[src_at], len);
    ops.fence(nullptr);
    memset(want_.get(), kOld, used);
    memcpy(&want_[from], &src_[src_at], len);
    ASSERT_EQ(memcmp(dst_.get(), want_.get(), used), 0)
        << ops.name << " dst+" << dst_at << " src+" << src_at << " len " << len;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { free(p); }
  };
  using Memory = std::unique_ptr<std::byte[], Free>;
  static constexpr int kOld = 0xee;
  static Memory allocate(size_t size) {
    const size_t whole = (size + 4095) / 4096 * 4096;
    return Memory(static_cast<std::byte*>(aligned_alloc(4096, whole)));
  }

  const size_t size_;
  Memory dst_, src_, want_;
};

TEST(Persist, EveryShortLengthAtSampledAlignments) {
  constexpr size_t kMax = 260;
  Arena arena(kMax + kLineBytes);
  for (const PersistOps* ops : runnable())
    for (size_t len = 0; len <= kMax; len++)
      for (size_t dst_at : {0, 1, 7, 8, 32, 63})
        for (size_t src_at : {0, 3, 16, 61}) {
          arena.check(*ops, dst_at, src_at, len);
          if (HasFatalFailure()) return;
        }
}

TEST(Persist, EveryAlignmentAtSampledLengths) {
  Arena arena(1024 + kLineBytes);
  for (const PersistOps* ops : runnable())
    for (size_t len : {1, 8, 63, 64, 65, 257, 300, 383, 385, 448, 511, 513, 1024})
      for (size_t at = 0; at < kLineBytes; at++) {
        arena.check(*ops, at, (at * 5) % kLineBytes, len);
        arena.check(*ops, 0, at, len);
        if (HasFatalFailure()) return;
      }
}

TEST(Persist, LongCopies) {
  constexpr size_t kMax = 1 << 20;
  Arena arena(kMax + kLineBytes);
  for (const PersistOps* ops : runnable())
    for (size_t len : {4096ul, 4096ul + 24, 32768ul - 64, 32768ul, 65536ul + 100, kMax})
      for (size_t dst_at : {0, 8, 33}) {
        arena.check(*ops, dst_at, dst_at / 2, len);
        if (HasFatalFailure()) return;
      }
}

TEST(Persist, EveryMethodIsFoundOrRefused) {
  for (const PersistOps& ops : persist_methods()) {
    SCOPED_TRACE(ops.name);
    const Result<const PersistOps*> found = find_persist_method(ops.name);
    EXPECT_EQ(found.ok(), ops.supported());
    if (found) {
      EXPECT_EQ(found.value(), &ops);
    } else {
      EXPECT_EQ(found.error().code, ENOTSUP);
      EXPECT_THAT(found.error().text, HasSubstr(std::string("persist=") + ops.name));
      EXPECT_THAT(found.error().text, HasSubstr("persist=flushcache"));
    }
  }
}

TEST(Persist, FlushcacheIsTheBestVariantAndAuto) {
  const PersistOps* flushcache = find_persist_method("flushcache").value();
  EXPECT_EQ(find_persist_method("auto").value(), flushcache);
  for (const PersistOps& variant : flushcache_variants()) {
    if (!variant.supported()) continue;
    EXPECT_EQ(flushcache->copy, variant.copy) << variant.name;
    return;
  }
  FAIL() << "no variant runs on this CPU";
}

TEST(Persist, UnknownNamesAreRefusedWithTheListOfKnownOnes) {
  for (const char* name : {"", "flush", "CLWB", "clwb "}) {
    const Result<const PersistOps*> found = find_persist_method(name);
    ASSERT_FALSE(found.ok()) << name;
    EXPECT_EQ(found.error().code, EINVAL);
    EXPECT_THAT(found.error().text, HasSubstr(std::string("persist=") + name + ":"));
    EXPECT_THAT(found.error().text, HasSubstr("auto, flushcache, clflushopt, clwb, movdir64b"));
  }
}

TEST(Persist, AFenceWithNothingToOrderIsFine) {
  for (const PersistOps* ops : runnable()) ops->fence(nullptr);
}

}  // namespace
}  // namespace pcache
