// SPDX-License-Identifier: GPL-2.0-or-later
// Dirty data that is damaged: what each of the two sides makes of it, by its crc or where it cannot
// be read.
#include <gmock/gmock.h>

#include <algorithm>

#include "backend/two_sides_for_test.h"

namespace pcache {
namespace {

using ::testing::HasSubstr;

enum class Damage { kBit, kPage };

class DamagedSides : public TwoSidesTest, public ::testing::WithParamInterface<Damage> {
 protected:
  static constexpr uint64_t kFirst = 0, kBad = 2 * kRangeBytes, kLast = 4 * kRangeBytes;

  DamagedSides() : TwoSidesTest(GetParam() == Damage::kBit) {}
  void close() { executor_->advance(milliseconds(2000)); }
  // Writes a page of `value` each, and closes its kset.
  void put(uint64_t off, int value) {
    ASSERT_EQ(write(off, 4096, value), 0);
    ASSERT_EQ(flush(), 0);
  }
  void damage(int value) {
    const std::vector<std::byte> data(4096, std::byte(value));
    const auto* end = memory_.data() + memory_.size_bytes();
    const auto* at = std::search(memory_.data(), end, data.begin(), data.end());
    ASSERT_NE(at, end);
    const MediaOff off{static_cast<uint64_t>(at - memory_.data())};
    GetParam() == Damage::kBit ? memory_.flip_bit(off) : memory_.make_unreadable(off);
  }
  int read(uint64_t off, uint64_t len) {
    Bytes data(len);
    return request(PCACHE_OP_READ, off, data);
  }
  void expect_stuck() {
    const CachePos at = backend_->dirty_tail();
    for (int i = 0; i < 2; i++) {
      const auto failed = backend_->step();
      ASSERT_FALSE(failed.ok());
      EXPECT_EQ(failed.error().code, EIO);
      EXPECT_THAT(failed.error().text, HasSubstr("the data of range 8388608+4096 is damaged"));
      EXPECT_THAT(failed.error().text, HasSubstr("overwrite it"));
    }
    EXPECT_EQ(backend_->dirty_tail(), at);
  }
  // 1 in front of what is damaged, 3 behind it.
  void start() {
    start_front();
    start_backend();
    put(kFirst, 1);
    put(kBad, 2);
    put(kLast, 3);
    damage(2);
  }
};

TEST_P(DamagedSides, WhatIsInFrontOfItIsWrittenBack) {
  start();
  const CachePos first = backend_->dirty_tail();
  const auto moved = backend_->step();
  ASSERT_TRUE(moved.ok()) << moved.error().text;
  EXPECT_EQ(moved.value(), Backend::Step::kMoved);
  EXPECT_EQ(backend_->dirty_tail(), first + static_cast<uint32_t>(sizeof(OneKeyKset)))
      << "up to its kset";
  EXPECT_EQ(backend_->counters().ksets, 1u);
  EXPECT_EQ(on_disk(kFirst, 4096), 1);
  expect_stuck();
  EXPECT_EQ(on_disk(kBad, 4096), -1);
  executor_->advance(milliseconds(5000));
  EXPECT_EQ(read(kBad, 4096), -EIO);
  EXPECT_EQ(value_at(kFirst, 4096), 1);
  EXPECT_EQ(value_at(kLast, 4096), 3);
  EXPECT_EQ(cache_->dirty().ksets, 2u);
}

TEST_P(DamagedSides, OverwrittenItKeepsNothing) {
  start();
  ASSERT_TRUE(backend_->step().ok());
  expect_stuck();
  put(kBad, 4);
  write_back();
  EXPECT_EQ(backend_->counters().overwritten_keys, 1u);
  EXPECT_EQ(on_disk(kBad, 4096), 4);
  EXPECT_EQ(on_disk(kLast, 4096), 3);
  executor_->advance(milliseconds(5000));
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  EXPECT_EQ(value_at(kBad, 4096), 4);
}

TEST_P(DamagedSides, PartlyOverwrittenItStays) {
  start();
  ASSERT_TRUE(backend_->step().ok());
  ASSERT_EQ(write(kBad, 512, 5), 0);
  ASSERT_EQ(write(kBad + 1024, 3072, 6), 0);
  ASSERT_EQ(flush(), 0);
  expect_stuck();
  EXPECT_EQ(on_disk(kBad + 512, 512), -1);
  ASSERT_EQ(write(kBad + 512, 512, 7), 0);
  ASSERT_EQ(flush(), 0);
  write_back();
  EXPECT_EQ(on_disk(kBad, 512), 5);
  EXPECT_EQ(on_disk(kBad + 512, 512), 7);
  EXPECT_EQ(on_disk(kBad + 1024, 3072), 6);
}

// What has overwritten it is durable before dirty_tail moves.
TEST_P(DamagedSides, WhatIsNotInTheLogHasOverwrittenNothing) {
  start();
  ASSERT_TRUE(backend_->step().ok());
  ASSERT_EQ(write(kBad, 4096, 4), 0);  // in an open kset
  expect_stuck();
  detach();
  start_front();
  write_back();
  EXPECT_EQ(on_disk(kBad, 4096), 4) << "it was closed with the front";
}

// Nor does the front make it sound: a move checks what it copies, and nothing is said of it then.
TEST_P(DamagedSides, WhatIsDamagedIsNotMoved) {
  start_front();
  start_backend();
  ASSERT_EQ(write(kBad, 4096, 2), 0);
  close();
  damage(2);
  ASSERT_TRUE(cache_->move_step().ok());
  ASSERT_EQ(write(kLast, 4096, 3), 0);
  close();
  expect_stuck();
  EXPECT_EQ(read(kBad, 4096), -EIO);
}

// The disk has it.
TEST_P(DamagedSides, CleanDataIsReadFromTheDisk) {
  start_front();
  start_backend();
  put(kBad, 2);
  write_back();
  executor_->advance(milliseconds(5000));
  ASSERT_EQ(cache_->dirty().live_bytes, 0u);
  damage(2);
  EXPECT_EQ(value_at(kBad, 4096), 2);
}

// role=both goes on behind it, and what it has appended again stays an error to read.
TEST_P(DamagedSides, AProcessThatDoesItAllGoesOnBehindIt) {
  start();
  ASSERT_TRUE(backend_->step().ok());
  detach();
  backend_.reset();
  options_.front = false;
  auto executor = std::make_unique<SteppedExecutor>();
  executor_ = executor.get();
  auto cache = Cache::attach(
      {memory_.make_pmem(), std::make_unique<LentDevice>(disk_), std::move(executor)}, options_);
  ASSERT_TRUE(cache.ok()) << cache.error().text;
  cache_ = cache.take();
  queue_ = cache_->create_queue(16).take();
  executor_->advance(milliseconds(60000));
  EXPECT_EQ(on_disk(kLast, 4096), 3);
  EXPECT_EQ(on_disk(kBad, 4096), -1);
  EXPECT_EQ(read(kBad, 4096), -EIO);
  detach();
  options_.front = true;
  start_front();
  start_backend();
  expect_stuck();
  EXPECT_EQ(read(kBad, 4096), -EIO);
  put(kBad, 4);
  write_back();
  EXPECT_EQ(on_disk(kBad, 4096), 4);
}

// Set back by hand, dirty_tail is in front of the damaged key and of the one that role=both has
// appended again: that one has overwritten nothing.
TEST_P(DamagedSides, AppendedAgainIsNotOverwritten) {
  start();
  ASSERT_TRUE(backend_->step().ok());
  const CachePos bad = backend_->dirty_tail();
  detach();
  backend_.reset();
  options_.front = false;
  {
    auto executor = std::make_unique<SteppedExecutor>();
    auto* const clock = executor.get();
    auto cache = Cache::attach(
        {memory_.make_pmem(), std::make_unique<LentDevice>(disk_), std::move(executor)}, options_);
    ASSERT_TRUE(cache.ok()) << cache.error().text;
    clock->advance(milliseconds(6000));
  }
  options_.front = true;
  auto pmem = memory_.make_pmem();
  Tails tails;
  ASSERT_TRUE(tails.load(*pmem, {31, kLogicalBytes}).ok());
  ASSERT_FALSE(tails.dirty_tail() == bad) << "it has gone on";
  ASSERT_TRUE(tails.set_dirty_tail(*pmem, bad).ok());
  start_backend();
  expect_stuck();
  EXPECT_EQ(backend_->dirty_tail(), bad);
  start_front();
  EXPECT_EQ(read(kBad, 4096), -EIO);
}

INSTANTIATE_TEST_SUITE_P(All, DamagedSides, ::testing::Values(Damage::kBit, Damage::kPage),
                         [](const auto& info) {
                           return info.param == Damage::kBit ? "crc" : "page";
                         });

}  // namespace
}  // namespace pcache
