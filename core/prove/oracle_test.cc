// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/oracle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pcache {
namespace {

using ::testing::IsEmpty;
using ::testing::StartsWith;

// Sectors 0 and 1; versions 1 and 2 of sector 0, then 3 of sector 1. They are submitted at times
// 10, 20, 30 and acknowledged one later.
class OracleTest : public ::testing::Test {
 protected:
  VersionId write(uint64_t sector, size_t time, bool fua = false) {
    const VersionId version = oracle_.begin_write({sector * 512, 512}, time);
    oracle_.end_write(version, fua, time + 1);
    return version;
  }
  std::string judge(VersionId of_0, VersionId of_1, size_t time = 100) {
    return oracle_.judge({{0, of_0}, {1, of_1}}, time);
  }
  std::string judge_device(VersionId of_0, VersionId of_1) {
    return oracle_.judge_device({{0, of_0}, {1, of_1}}, 100);
  }
  Oracle oracle_;
};

TEST_F(OracleTest, ContentTellsItsVersion) {
  for (const VersionId version : {0u, 1u, 77u, kEarlierLife}) {
    auto bytes = Oracle::content(version, 1024, 1024);
    EXPECT_EQ(Oracle::version_of(2, bytes.data()), version);
    EXPECT_EQ(Oracle::version_of(3, bytes.data() + 512), version);
    EXPECT_EQ(Oracle::version_of(3, bytes.data()), std::nullopt) << "of another sector";
    bytes[100] ^= std::byte(1);
    EXPECT_EQ(Oracle::version_of(2, bytes.data()), std::nullopt);
  }
}

TEST_F(OracleTest, WithoutABarrierAnyVersionMayBeThere) {
  write(0, 10);
  write(0, 20);
  for (const VersionId version : {0u, 1u, 2u}) EXPECT_THAT(judge(version, 0), IsEmpty());
  EXPECT_THAT(judge(2, 0, 15), StartsWith("resurrected")) << "it was not submitted yet";
  EXPECT_THAT(judge(kEarlierLife, 0), StartsWith("resurrected"));
}

TEST_F(OracleTest, AFlushCoversWhatWasAcknowledgedBeforeIt) {
  write(0, 10);
  const auto covered = oracle_.covers();
  write(0, 20);
  oracle_.end_flush(covered, 25);
  EXPECT_THAT(judge(0, 0), StartsWith("lost"));
  EXPECT_THAT(judge(0, 0, 24), IsEmpty()) << "before it was acknowledged";
  EXPECT_THAT(judge(1, 0), IsEmpty());
  EXPECT_THAT(judge(2, 0), IsEmpty());
}

TEST_F(OracleTest, FuaCoversItselfAlone) {
  write(0, 10);
  write(1, 20, true);
  EXPECT_THAT(judge(0, 2), IsEmpty());
  EXPECT_THAT(judge(1, 0), StartsWith("lost"));
}

TEST_F(OracleTest, TheDeviceMayBeBehindButNotOutOfOrder) {
  write(0, 10, true);
  write(1, 20);
  EXPECT_THAT(judge_device(0, 0), IsEmpty());
  EXPECT_THAT(judge_device(1, 0), IsEmpty());
  EXPECT_THAT(judge_device(1, 2), IsEmpty());
  EXPECT_THAT(judge_device(0, 2), StartsWith("lost: the device is out of order"));
}

TEST_F(OracleTest, TheOldLifesOrderHoldsForTheDeviceInTheNewOne) {
  write(0, 10, true);
  write(1, 20);
  oracle_.collapse({{0, 1}, {1, 2}}, 40);
  EXPECT_THAT(judge_device(0, 0), IsEmpty());
  EXPECT_THAT(judge_device(0, 2), StartsWith("lost: the device is out of order"));
}

TEST_F(OracleTest, BehindPreflushIsAllThatWasAcknowledged) {
  write(0, 10);
  oracle_.begin_write({512, 512}, 20, true);
  EXPECT_THAT(judge(0, 0), IsEmpty());
  EXPECT_THAT(judge(1, 2), IsEmpty());
  EXPECT_THAT(judge(0, 2), StartsWith("lost: version 2 is there"));
}

TEST_F(OracleTest, UntilAFormatHasBegunAllIsAsBefore) {
  write(0, 10);
  write(1, 20);
  oracle_.collapse({{0, 0}, {1, 0}}, 30);
  oracle_.note_format({{0, 1}, {1, 2}}, 3, 9);
  EXPECT_THAT(judge(1, 2, 3), IsEmpty());
  EXPECT_THAT(judge(1, 2, 4), StartsWith("resurrected"));
  EXPECT_THAT(judge(1, 0, 3), StartsWith("resurrected")) << "half of it";
  EXPECT_THAT(judge(0, 0, 3), IsEmpty());
  EXPECT_TRUE(oracle_.may_be_refused(9));
  EXPECT_FALSE(oracle_.may_be_refused(10));
}

TEST_F(OracleTest, AfterARecoveryWhatWasFoundIsDurable) {
  write(0, 10);
  write(0, 20);
  write(1, 30);
  oracle_.collapse({{0, 1}, {1, 3}}, 40);
  EXPECT_THAT(judge(1, 3, 0), IsEmpty());
  EXPECT_THAT(judge(0, 3, 0), StartsWith("lost"));
  EXPECT_THAT(judge(2, 3, 0), StartsWith("resurrected")) << "it never was";
  EXPECT_THAT(judge_device(0, 3), IsEmpty()) << "no barrier was between them";
  EXPECT_EQ(write(0, 5), 4u) << "numbers are not used twice";
  EXPECT_THAT(judge_device(4, 0), StartsWith("lost: the device is out of order"));
}

TEST_F(OracleTest, AReadGivesWhatWasAcknowledgedLastOrIsUnderWay) {
  write(0, 10);
  write(0, 20);
  EXPECT_FALSE(oracle_.may_read(0, 1));
  EXPECT_TRUE(oracle_.may_read(0, 2));
  const VersionId under_way = oracle_.begin_write({0, 512}, 30);
  EXPECT_TRUE(oracle_.may_read(0, 2));
  EXPECT_TRUE(oracle_.may_read(0, under_way));
}

}  // namespace
}  // namespace pcache
