// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "pmem/pmem.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;

// Methods that store different marks.
template <int mark>
PersistOps marking(const char* name) {
  return {
      name,
      [](void*, std::byte* dst, const void*, size_t len_bytes) { memset(dst, mark, len_bytes); },
      [](void*) {}, [] { return true; }};
}
const PersistOps kA = marking<1>("a"), kB = marking<2>("b"), kC = marking<3>("c");

std::vector<std::string> names(const std::array<const PersistOps*, Calibration::kClasses>& ops) {
  std::vector<std::string> names;
  for (const PersistOps* one : ops) names.emplace_back(one->name);
  return names;
}

TEST(CalibrationTest, TheFastestOfEachSizeIsChosen) {
  Calibration c;
  c.measured = {
      {&kA, {100, 100, 1000, 1000}}, {&kB, {200, 50, 900, 2000}}, {&kC, {90, 90, 800, 999}}};
  EXPECT_THAT(names(c.chosen()), ElementsAre("c", "b", "c", "a"));
  EXPECT_EQ(
      c.text(),
      "512 B c 90 ns (a 100, b 200); 4 KiB b 50 ns (a 100, c 90); 16 KiB c 800 ns (a 1000, b 900); "
      "64 KiB a 1000 ns (b 2000, c 999)");
}

// Two measurements of equal methods must not choose differently.
TEST(CalibrationTest, WhatIsHardlyFasterIsNotChosen) {
  Calibration c;
  c.measured = {{&kA, {100, 100, 100, 100}}, {&kB, {96, 95, 94, 101}}};
  EXPECT_THAT(names(c.chosen()), ElementsAre("a", "a", "b", "a"));
}

TEST(CalibrationTest, ClassesMeetAtTheirLimits) {
  for (const auto& [len, c] : {std::pair<size_t, size_t>{0, 0},
                               {1024, 0},
                               {1025, 1},
                               {8192, 1},
                               {8193, 2},
                               {32768, 2},
                               {32769, 3},
                               {16 << 20, 3}})
    EXPECT_EQ(Calibration::class_of(len), c) << len;
}

class CalibratedPmem : public ::testing::Test {
 protected:
  static constexpr size_t kBytes = 8 << 20;
  CalibratedPmem()
      : base_(static_cast<std::byte*>(
            mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))),
        pmem_(base_, kBytes, &kA, nullptr) {}
  ~CalibratedPmem() override { munmap(base_, kBytes); }

  std::byte* const base_;
  Pmem pmem_;
};

TEST_F(CalibratedPmem, EachSizeGoesToItsMethod) {
  pmem_.use({&kA, &kB, &kC, &kB});
  EXPECT_STREQ(pmem_.persist_name(), "by size");
  const std::vector<std::byte> data(65536);
  for (const auto& [len, mark] :
       {std::pair<size_t, int>{257, 1}, {1024, 1}, {4096, 2}, {16384, 3}, {65536, 2}}) {
    EXPECT_TRUE(pmem_.store(MediaOff{0}, data.data(), len));
    EXPECT_EQ(base_[len - 1], std::byte(mark)) << len;
  }
  // flushcache itself stores and flushes a record of this size; the other methods were not measured
  // for it.
  EXPECT_TRUE(pmem_.store(MediaOff{0}, data.data(), 256));
  EXPECT_EQ(base_[255], data[255]);
  pmem_.use({&kC, &kC, &kC, &kC});
  EXPECT_STREQ(pmem_.persist_name(), "c") << "one for all is called by its name";
}

TEST_F(CalibratedPmem, MeasuringLeavesTheMediaAsTheyAre) {
  std::mt19937_64 random(1);
  std::generate_n(reinterpret_cast<uint64_t*>(base_), kBytes / 8, random);
  const std::vector<std::byte> before(base_, base_ + kBytes);
  const auto measured = pmem_.calibrate(2);
  ASSERT_TRUE(measured);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), base_));
  EXPECT_FALSE(measured.value().measured.empty());
  for (const auto& method : measured.value().measured) {
    EXPECT_TRUE(method.ops->supported()) << method.ops->name;
    for (const uint32_t ns : method.ns) {
      EXPECT_GT(ns, 0u);
      EXPECT_LT(ns, UINT32_MAX);
    }
  }
  EXPECT_STREQ(pmem_.persist_name(), "a") << "measuring alone changes nothing";
}

TEST_F(CalibratedPmem, MediaThatCannotBeReadAreNotMeasured) {
  // As behind the end of a file: the access raises SIGBUS.
  const int file = memfd_create("empty", MFD_CLOEXEC);
  ASSERT_NE(
      mmap(base_ + kBytes - 4096, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0),
      MAP_FAILED);
  EXPECT_EQ(pmem_.calibrate(1).error().code, EIO);
}

}  // namespace
}  // namespace pcache
