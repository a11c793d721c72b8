// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/power_loss.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>
#include <thread>

#include "base/ids.h"

namespace pcache {
namespace {

using Kind = TraceEvent::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class PowerLossTest : public ::testing::Test {
 protected:
  void store(uint64_t off, uint64_t value, Kind kind = Kind::kStore) {
    trace_.add(kind, off, &value, sizeof value);
  }
  void fence() { trace_.add(Kind::kFence); }
  void device_write(uint64_t sector, int value, bool done = true) {
    std::array<std::byte, kSectorBytes> bytes;
    bytes.fill(std::byte(value));
    trace_.add(Kind::kDeviceWrite, sector * kSectorBytes, bytes.data(), bytes.size(), ++id_);
    if (done) trace_.add(Kind::kDeviceWriteDone, 0, nullptr, 0, id_);
  }
  void device_flush(Kind end = Kind::kDeviceFlush) {
    trace_.add(Kind::kDeviceFlushBegun, 0, nullptr, 0, ++id_);
    trace_.add(end, 0, nullptr, 0, id_);
  }
  uint64_t word(uint64_t off) const {
    uint64_t value;
    memcpy(&value, memory_.data() + off, sizeof value);
    return value;
  }
  // The states in front of event `event`, each as the words at 0, 8, 16 and the device's sectors.
  std::multiset<std::string> states(size_t event, bool lies = false) {
    std::multiset<std::string> found;
    const UndoMemory::Mark mark = memory_.mark();
    PowerLoss loss(memory_, trace_, {}, {.device_lies = lies});
    loss.walk(0, [&](const CrashPoint& point) {
      if (point.event != event) return;
      std::string text;
      for (uint64_t off : {0, 8, 16}) text += std::to_string(word(off));
      for (const auto& [sector, bytes] : point.device)
        text.append(" ")
            .append(std::to_string(sector))
            .append("=")
            .append(std::to_string(static_cast<int>(bytes[0])));
      found.insert(text);
    });
    memory_.rollback(mark);
    return found;
  }
  size_t now() { return trace_.now(); }

  UndoMemory memory_{65536};
  Trace trace_;
  uint64_t id_ = 0;
};

TEST_F(PowerLossTest, AnySubsetOfWhatIsNotFenced) {
  store(0, 1);
  store(8, 2);
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "100", "020", "120"));
}

TEST_F(PowerLossTest, WhatIsFencedStays) {
  store(0, 1);
  fence();
  store(8, 2);
  EXPECT_THAT(states(now()), UnorderedElementsAre("100", "120"));
}

TEST_F(PowerLossTest, AWordTakesAnyOfItsValuesAndNeverGoesBack) {
  store(0, 1);
  store(0, 2);
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "100", "200", "200"));
  fence();
  store(0, 3);
  EXPECT_THAT(states(now()), UnorderedElementsAre("200", "300"));
}

TEST_F(PowerLossTest, OnlyWantedPointsAndNoneOrAllOfTheirStores) {
  PowerLoss::Options options;
  options.exhaustive_words = options.exhaustive_stores = options.samples = 0;
  options.each_alone = false;
  size_t wanted = 0;
  options.wanted = [&](size_t event) { return event == wanted; };
  for (uint64_t value = 1; value <= 3; value++) {
    for (const uint64_t off : {0, 8, 16}) store(off, value);
    if (value == 2) wanted = now();
    fence();
  }
  std::vector<uint64_t> found;
  PowerLoss loss(memory_, trace_, {}, options);
  loss.walk(0, [&](const CrashPoint& point) {
    EXPECT_EQ(point.event, wanted);
    for (const uint64_t off : {0, 8, 16}) found.push_back(word(off));
  });
  EXPECT_THAT(found, ElementsAre(1, 1, 1, 2, 2, 2));
}

TEST_F(PowerLossTest, AFenceIsOfItsThreadAlone) {
  store(0, 1);
  std::thread([this] {
    store(8, 2);
    fence();
  }).join();
  EXPECT_THAT(states(now()), UnorderedElementsAre("020", "120"));
}

TEST_F(PowerLossTest, AFenceInOtherThreadsLeavesOutItsOwn) {
  store(0, 1);
  std::thread([this] {
    store(8, 2);
    trace_.add(Kind::kFenceThreads);
  }).join();
  EXPECT_THAT(states(now()), UnorderedElementsAre("100", "120"));
}

TEST_F(PowerLossTest, WhatIsNotFlushedIsDurableAtNoTime) {
  store(0, 1, Kind::kUnflushed);
  fence();
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "100"));
}

TEST_F(PowerLossTest, TheDevicesCacheLosesAnySectorUntilAFlush) {
  device_write(3, 7);
  device_write(4, 8);
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "000 3=7", "000 4=8", "000 3=7 4=8"));
  device_flush();
  EXPECT_THAT(states(now()), UnorderedElementsAre("000 3=7 4=8"));
  EXPECT_EQ(states(now(), true).size(), 4u) << "a device that lies";
}

TEST_F(PowerLossTest, AFlushCoversWhatHasCompleted) {
  device_write(3, 7, false);
  device_write(4, 8);
  device_flush();
  EXPECT_THAT(states(now()), UnorderedElementsAre("000 4=8", "000 3=7 4=8"));
}

TEST_F(PowerLossTest, AFlushThatFailsMayHaveLostWhatItCovered) {
  device_write(3, 7);
  device_flush(Kind::kDeviceFlushFailed);
  device_flush();
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "000 3=7"));
  device_write(3, 9);
  device_flush();
  EXPECT_THAT(states(now()), UnorderedElementsAre("000 3=9"));
}

TEST_F(PowerLossTest, AnOrderThatNothingGivesIsNamed) {
  store(0, 1);
  store(8, 2);
  fence();
  store(0, 3);
  device_write(7, 1);
  device_write(7, 2);
  EXPECT_EQ(missing_order(trace_), "");
  trace_.clear();
  store(0, 1);
  store(0, 2);
  EXPECT_THAT(missing_order(trace_), HasSubstr("without a fence between: the word at 0"));
  trace_.clear();
  device_write(7, 1, false);
  device_write(6, 1, false);
  device_write(7, 2, false);
  EXPECT_THAT(missing_order(trace_),
              HasSubstr("two writes to one sector of the device at once: 7"));
}

TEST_F(PowerLossTest, ManyWordsAreSampledWithTheExtremes) {
  std::array<std::byte, 4096> bytes;
  bytes.fill(std::byte(1));
  trace_.add(Kind::kStore, 0, bytes.data(), bytes.size());
  store(8192, 5);
  const auto found = states(now());
  EXPECT_GT(found.size(), 10u);
  EXPECT_TRUE(found.contains("000"));
  const std::string one = std::to_string(0x0101010101010101);
  EXPECT_TRUE(found.contains(one + one + one));
}

TEST_F(PowerLossTest, EqualStatesHaveEqualHashesAndOthersNot) {
  store(4096, 1);  // behind the identity block, which does not count
  store(4104, 2);
  fence();
  std::map<std::string, std::set<uint64_t>> hashes;
  PowerLoss(memory_, trace_, {}, {}).walk(0, [&](const CrashPoint& point) {
    hashes[std::to_string(word(4096)) + std::to_string(word(4104))].insert(point.hash);
  });
  ASSERT_EQ(hashes.size(), 4u);
  std::set<uint64_t> all;
  for (const auto& [state, of_state] : hashes) {
    EXPECT_EQ(of_state.size(), 1u) << state;
    all.insert(of_state.begin(), of_state.end());
  }
  EXPECT_EQ(all.size(), 4u);
}

// Of several processes each fences its own.
class ProcessesTest : public PowerLossTest {
 protected:
  void store_by(uint32_t process, uint64_t off, uint64_t value) {
    trace_.add(Kind::kStore, off, &value, sizeof value, 0, process);
  }
  void by(uint32_t process, Kind kind, uint64_t off = 0, size_t len = 0) {
    trace_.add(kind, off, nullptr, len, 0, process);
  }
};

TEST_F(ProcessesTest, AFenceIsOfTheProcessThatStored) {
  store_by(1, 0, 1);
  by(2, Kind::kFence);
  by(2, Kind::kFenceThreads);
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "100"));
  by(1, Kind::kFence);
  EXPECT_THAT(states(now()), ElementsAre("100"));
}

TEST_F(ProcessesTest, WhatAnotherHasFlushedItsFenceMakesDurable) {
  store_by(1, 0, 1);
  by(2, Kind::kFlush, 8, 1);  // the same line
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "100"));
  by(1, Kind::kMark);
  by(2, Kind::kFence);
  EXPECT_THAT(states(now()), ElementsAre("100"));
}

TEST_F(ProcessesTest, AFlushTakesWhatIsThereThen) {
  by(2, Kind::kFlush, 0, 8);
  store_by(1, 0, 1);
  by(2, Kind::kFlush, 64, 8);
  by(2, Kind::kFence);
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "100"));
}

TEST_F(ProcessesTest, WhatAKilledOneHasNotFencedMayBeThere) {
  store_by(1, 0, 1);
  by(1, Kind::kKilled);
  store_by(2, 0, 2);
  EXPECT_THAT(missing_order(trace_), "");
  EXPECT_THAT(states(now()), UnorderedElementsAre("000", "100", "200", "200"));
  by(2, Kind::kFence);
  EXPECT_THAT(states(now()), ElementsAre("200"));
  store_by(1, 0, 3);
  store_by(2, 0, 4);
  EXPECT_THAT(missing_order(trace_), HasSubstr("stored twice without a fence"));
}

}  // namespace
}  // namespace pcache
