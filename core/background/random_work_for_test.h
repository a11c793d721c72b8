// SPDX-License-Identifier: GPL-2.0-or-later
// A user who writes and sets barriers at random, while writeback and reclaim are stepped at random.
#pragma once

#include <random>

#include "background/writeback_for_test.h"

namespace pcache {

class RandomWork : public WritebackTest, public ::testing::WithParamInterface<int> {
 protected:
  struct Shape {
    uint32_t operations;
    uint32_t pages;                // that are written, spread over all stripes
    uint32_t sides;                // of the die that says what comes next:
    uint32_t steps;                // so many of them a step of writeback; most others a write
    std::vector<LiveData> live{};  // each step with one of these
  };

  // With the test's parameter as the seed. At all times what is read is what was written last; at
  // the end all is on the device, which was legal, and nobody was told of space that is not there.
  void work(RigOptions o, const Shape& shape) {
    random_.seed(static_cast<unsigned>(GetParam()));
    pages_ = shape.pages;
    uint64_t told = 0;
    o.writeback.progress = [&told](uint64_t bytes) { told += bytes; };
    // Writes and barriers come also between a copy and its key.
    o.writeback.stored = [this] {
      if (is_one_in(4)) write_piece();
      if (is_one_in(32)) set_barrier();
    };
    WritebackTest::start(o);
    for (uint32_t i = 0; i < shape.operations && !HasFatalFailure(); i++) operate(shape);
    rig_->flush();
    rig_->write_back();
    expect_device_was_legal(user_);
    EXPECT_LE(told,
              rig_->writeback->passed_dirty_bytes() - rig_->writeback->moved().moved_bytes.load());
  }

 private:
  bool is_one_in(uint32_t n) { return random_() % n == 0; }

  void operate(const Shape& shape) {
    const uint32_t side = static_cast<uint32_t>(random_() % shape.sides);
    if (side == 0) {
      if (is_one_in(8)) set_barrier();
    } else if (side == 1) {
      rig_->close();
    } else if (side == 2) {
      rig_->reclaim_all();
      expect_all_there();
    } else if (side < 3 + shape.steps) {
      Writeback::Size size = rig_->batch();
      size.live = shape.live[random_() % shape.live.size()];
      EXPECT_TRUE(rig_->writeback->step(rig_->log->mark(), size).ok());
      expect_all_there();
    } else {
      write_piece();
    }
  }
  void set_barrier() {
    rig_->flush();
    user_.barrier();
  }
  // The pages lie on both sides of the ends of ranges, so that a write may be of two stripes.
  void write_piece() {
    const uint32_t each = pages_ / kEnds * (kPage / kSectorBytes);  // sectors at an end of a range
    const auto first = static_cast<uint32_t>(random_() % each);
    auto sectors = static_cast<uint32_t>(1 + random_() % std::min(kMostSectors, each - first));
    const uint64_t end = (1 + random_() % kEnds) * kRangeBytes;
    uint64_t off = end - each / 2 * kSectorBytes + first * kSectorBytes;
    if (is_one_in(2)) {  // whole pages are what is superseded most
      off -= off % kPage;
      sectors = kPage / kSectorBytes;
    }
    const uint32_t value = user_.new_value();
    ASSERT_TRUE(rig_->write(off, sectors * kSectorBytes, value));
    for (uint32_t i = 0; i < sectors; i++) user_.now[off + i * kSectorBytes] = value;
  }
  void expect_all_there() {
    for (const auto& [off, value] : user_.now) ASSERT_EQ(rig_->value(off), int(value)) << off;
  }

  static constexpr uint64_t kPage = 4096;
  static constexpr uint32_t kEnds = 4, kMostSectors = 20;
  std::mt19937 random_;
  uint32_t pages_ = 0;
  Epochs user_{kSectorBytes};
};

}  // namespace pcache
