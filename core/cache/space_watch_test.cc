// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/space_watch.h"

#include <gmock/gmock.h>

#include <vector>

namespace pcache {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SpaceWatchTest : public ::testing::Test {
 protected:
  // `times` looks; `waits` requests begin to wait before each.
  void look(uint32_t times, uint64_t waits) {
    for (uint32_t i = 0; i < times; i++) {
      now_.waits += waits;
      now_.written_bytes += mib_written_ << 20;
      now_.passed_bytes += mib_passed_ << 20;
      watch_.look(now_);
    }
  }
  std::vector<std::string> lines_;
  Log log_{[this](LogLevel level, const char* line) {
    EXPECT_EQ(level, LogLevel::kNotice);
    lines_.push_back(line);
  }};
  SpaceWatch watch_{log_, "disk"};
  SpaceWatch::Sample now_{.dirty_bytes = 400 << 20, .free_segments = 1, .segments = 31};
  uint64_t mib_written_ = 7, mib_passed_ = 0;
};

TEST_F(SpaceWatchTest, AWaitNowAndThenIsNoLine) {
  for (int i = 0; i < 100; i++) {
    look(SpaceWatch::kBegin - 1, 5);
    look(1, 0);
  }
  EXPECT_THAT(lines_, IsEmpty());
}

TEST_F(SpaceWatchTest, OneLineWhenTheyBeginAndOneWhenItEnds) {
  look(10, 0);
  look(20, 100);
  EXPECT_THAT(lines_, ElementsAre(AllOf(HasSubstr("400 MiB are dirty"), HasSubstr("1 of 31"),
                                        HasSubstr("disk takes 7 MiB/s"))));
  look(SpaceWatch::kEnd - 1, 0);
  EXPECT_EQ(lines_.size(), 1u);
  now_.dirty_bytes = 0;
  look(10, 0);
  EXPECT_EQ(lines_.size(), 2u);
  EXPECT_THAT(lines_.back(), AllOf(HasSubstr("2000 did, in 20 s"), HasSubstr("0 MiB are dirty")));
}

// They do so all the time in some modes.
TEST_F(SpaceWatchTest, WritesThatWaitForTheDeviceAreToldWhenItTakesNothing) {
  now_.awaited = 3;
  look(100, 0);
  EXPECT_THAT(lines_, IsEmpty());
  mib_written_ = 0;
  look(SpaceWatch::kHung - 1, 0);
  EXPECT_THAT(lines_, IsEmpty());
  look(50, 0);
  EXPECT_THAT(lines_, ElementsAre(HasSubstr("requests wait for it, and the backing device disk has "
                                            "taken nothing for 10 s")));
}

TEST_F(SpaceWatchTest, OneThatWaitsOnCounts) {
  now_.waits = 1;
  now_.waiting = 1;
  look(SpaceWatch::kBegin, 0);
  EXPECT_EQ(lines_.size(), 1u);
}

TEST_F(SpaceWatchTest, SaysThatTheDeviceFails) {
  now_.failing = true;
  now_.error = "writing back failed: EIO";
  look(20, 1);
  EXPECT_THAT(lines_, ElementsAre(HasSubstr("disk fails: writing back failed: EIO")));
}

TEST_F(SpaceWatchTest, SaysOnceThatTheDeviceTakesNothing) {
  mib_written_ = 0;
  look(100, 1);
  EXPECT_THAT(lines_, ElementsAre(HasSubstr("disk takes 0 MiB/s"),
                                  HasSubstr("disk has taken nothing for 10 s")));
}

// Space comes free without the device, too: what is superseded is passed, what is live moved.
TEST_F(SpaceWatchTest, ADeviceThatIsNotNeededDoesNotHang) {
  mib_written_ = 0;
  mib_passed_ = 5;
  look(100, 1);
  EXPECT_EQ(lines_.size(), 1u);
}

TEST_F(SpaceWatchTest, NoFlood) {
  for (int i = 0; i < 60; i++) {  // 600 looks
    look(5, 1);
    look(5, 0);
  }
  EXPECT_LE(lines_.size(), 2u * 10);
  EXPECT_GE(lines_.size(), 2u * 8);
}

TEST_F(SpaceWatchTest, ClosingEndsIt) {
  look(10, 3);
  watch_.close(now_);
  EXPECT_THAT(lines_.back(), HasSubstr("30 did, in 10 s"));
  watch_.close(now_);
  EXPECT_EQ(lines_.size(), 2u);
}

}  // namespace
}  // namespace pcache
