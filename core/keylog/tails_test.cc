// SPDX-License-Identifier: GPL-2.0-or-later
#include "keylog/tails.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/crash_states.h"
#include "testing/image.h"

namespace pcache {
namespace {

using media::TailPos;
using ::testing::HasSubstr;

const Bounds kBounds{4, 1 << 30};

class TailsTest : public ::testing::Test {
 protected:
  std::string error() {
    Tails tails;
    const Status loaded = tails.load(image_.pmem(), kBounds);
    return loaded ? "no error" : loaded.error().text;
  }
  static void load(Tails& tails, const Pmem& pmem) {
    const Status loaded = tails.load(pmem, kBounds);
    ASSERT_TRUE(loaded.ok()) << loaded.error().text;
  }
  Image image_{4};
};

TEST_F(TailsTest, BothStandAtTheStartOfAFreshFormat) {
  Tails tails;
  load(tails, image_.pmem());
  EXPECT_EQ(tails.key_tail(), CachePos{});
  EXPECT_EQ(tails.dirty_tail(), CachePos{});
}

TEST_F(TailsTest, MoveEachForItself) {
  Tails tails;
  load(tails, image_.pmem());
  const CachePos a{SegId{1}, 64}, b{SegId{3}, 128};
  EXPECT_TRUE(tails.set_dirty_tail(image_.pmem(), b).ok());
  EXPECT_TRUE(tails.set_key_tail(image_.pmem(), a).ok());
  EXPECT_EQ(tails.key_tail(), a);
  EXPECT_EQ(tails.dirty_tail(), b);
  Tails again;
  load(again, image_.pmem());
  EXPECT_EQ(again.key_tail(), a);
  EXPECT_EQ(again.dirty_tail(), b);
}

TEST_F(TailsTest, DurableOnReturnAndAlternating) {
  Tails tails;
  load(tails, image_.pmem());  // the format's record is in slot 0
  for (uint32_t i = 1; i <= 4; i++) {
    image_.memory().checkpoint();
    EXPECT_TRUE(tails.set_key_tail(image_.pmem(), {SegId{0}, 8 * i}).ok());
    const Journal& journal = image_.memory().journal();
    ASSERT_EQ(journal.size(), 2u);
    EXPECT_EQ(journal[0].off, key_tail_place().base + 16 * (i % 2));
    EXPECT_TRUE(journal[1].fence);
  }
}

TEST_F(TailsTest, PositionsOutOfBoundsAreRefused) {
  image_.key_tail({SegId{4}, 0});
  EXPECT_THAT(error(), HasSubstr("key_tail: position names segment 4 of 4"));
  image_.key_tail({});
  image_.dirty_tail({SegId{0}, media::kSegDataBytes});
  EXPECT_THAT(error(), HasSubstr("dirty_tail: position names offset"));
}

TEST_F(TailsTest, NeitherReplicaValidIsRefused) {
  image_.memory().flip_bit(dirty_tail_place().base + 12);
  EXPECT_THAT(error(), HasSubstr("dirty_tail at 16416 and 16432: neither replica is valid"));
  image_.memory().make_unreadable(key_tail_place().base);
  EXPECT_THAT(error(), HasSubstr("key_tail at 16384"));
}

// Hazard newest-replica-overwritten: if the first move after a load is torn, the loaded position
// remains.
TEST_F(TailsTest, ACrashLeavesTheOldPositionOrTheNew) {
  const CachePos before{SegId{1}, 64}, after{SegId{2}, 1 << 20};
  for (const int moves : {1, 2}) {  // the newest in slot 1, in slot 0
    for (int i = 0; i < moves; i++) {
      image_.key_tail(before);
      image_.dirty_tail(before);
    }
    Tails tails;
    load(tails, image_.pmem());
    image_.memory().checkpoint();
    EXPECT_TRUE(tails.set_dirty_tail(image_.pmem(), after).ok());
    EXPECT_TRUE(tails.set_key_tail(image_.pmem(), after).ok());
    for_each_crash_state(image_.memory().journal(), {},
                         [&](std::span<const KeptStore> kept, const std::string& what) {
                           const auto image = image_.memory().crash_image(kept);
                           Tails loaded;
                           ASSERT_TRUE(loaded.load(image->pmem(), kBounds).ok()) << what;
                           for (const CachePos pos : {loaded.key_tail(), loaded.dirty_tail()})
                             EXPECT_TRUE(pos == before || pos == after) << what;
                           if (loaded.key_tail() == after) {
                             EXPECT_EQ(loaded.dirty_tail(), after) << what;
                           }
                         });
  }
}

// If only one of them could move, key_tail might pass dirty_tail.
TEST_F(TailsTest, ABadPageStopsBothForGood) {
  Tails tails;
  const Bounds bounds{4, 1 << 20};
  ASSERT_TRUE(tails.load(image_.pmem(), bounds).ok());
  const CachePos a{SegId{1}, 64}, b{SegId{1}, 128};
  ASSERT_TRUE(tails.set_dirty_tail(image_.pmem(), a).ok());
  image_.memory().make_bad(MediaOff{media::kCacheCtrlOff});
  EXPECT_EQ(tails.set_dirty_tail(image_.pmem(), b).error().code, EIO);
  EXPECT_TRUE(tails.failed());
  EXPECT_EQ(tails.dirty_tail(), b) << "in DRAM: writeback goes on";
  image_.memory().checkpoint();
  EXPECT_EQ(tails.set_key_tail(image_.pmem(), a).error().code, EIO);
  EXPECT_EQ(tails.key_tail(), (CachePos{SegId{0}, 0})) << "nothing before it comes free";
  EXPECT_TRUE(image_.memory().journal().empty()) << "not tried again";
}

}  // namespace
}  // namespace pcache
