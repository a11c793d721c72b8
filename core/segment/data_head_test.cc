// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/data_head.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>

#include "testing/image.h"

namespace pcache {
namespace {

constexpr uint32_t kBlock = 512;

class Heads : public ::testing::Test {
 protected:
  Image image_{4};
  std::unique_ptr<SegmentTable> table_ = image_.table(1);
};

TEST_F(Heads, HandsOutFrontToBack) {
  DataHead head(*table_, kBlock);
  uint32_t off = 0;
  for (const uint32_t len : {512u, 4096u, 1u << 20, 512u}) {
    const auto place = head.allocate(len);
    ASSERT_TRUE(place);
    EXPECT_EQ(place.pos, (CachePos{SegId{0}, off}));
    EXPECT_EQ(place.len, len);
    off += len;
  }
}

TEST_F(Heads, CutsAtTheSegmentsEndAndGoesOnInAnother) {
  DataHead head(*table_, kBlock);
  constexpr uint32_t kRest = 1024;
  ASSERT_EQ(head.allocate(media::kSegDataBytes - kRest).len, media::kSegDataBytes - kRest);
  const auto cut = head.allocate(4096);
  ASSERT_TRUE(cut);
  EXPECT_EQ(cut.pos, (CachePos{SegId{0}, media::kSegDataBytes - kRest}));
  EXPECT_EQ(cut.len, kRest);
  EXPECT_EQ(head.allocate(512).pos, (CachePos{SegId{1}, 0}));
}

// A backing device of blocks of 8 KiB could not write back what a key of 4 KiB names.
TEST_F(Heads, HandsOutNoPartOfABlock) {
  for (const uint32_t block : {8192u, 16384u, 65536u}) {
    DataHead head(*table_, block);
    for (uint64_t bytes = 0; bytes < 2 * media::kSegDataBytes;) {
      const auto place = head.allocate(3 * block);
      ASSERT_TRUE(place);
      EXPECT_EQ(place.len % block, 0u) << block << " at " << place.pos.off;
      EXPECT_LE(place.pos.off + place.len, media::kSegDataBytes);
      bytes += place.len;
      table_->drop_refs(place.pos.seg);
    }
  }
}

TEST_F(Heads, NothingWhenOnlyTheLogsReserveIsLeft) {
  DataHead head(*table_, kBlock);
  for (int i = 0; i < 3; i++) ASSERT_TRUE(head.allocate(media::kSegDataBytes));
  EXPECT_FALSE(head.allocate(512));
  EXPECT_EQ(table_->counts().free, 1u);
  table_->drop_refs(SegId{1});  // its one key goes
  const auto place = head.allocate(512);
  ASSERT_TRUE(place);
  EXPECT_EQ(place.pos, (CachePos{SegId{3}, 0}));
}

TEST_F(Heads, EachPlaceIsOneReference) {
  {
    DataHead head(*table_, kBlock);
    for (int i = 0; i < 3; i++) ASSERT_TRUE(head.allocate(512));
    table_->drop_refs(SegId{0});
  }  // gives the extra references back
  EXPECT_EQ(table_->counts().data, 1u);
  table_->drop_refs(SegId{0});
  EXPECT_EQ(table_->counts().data, 1u);
  table_->drop_refs(SegId{0});
  EXPECT_EQ(table_->counts().data, 0u);
}

TEST_F(Heads, AnUnusedHeadTakesNothing) {
  { DataHead head(*table_, kBlock); }
  EXPECT_EQ(table_->counts().free, 4u);
  EXPECT_TRUE(image_.memory().journal().empty());
}

TEST_F(Heads, AHeadWhosePlacesAllCameBackFreesItsSegment) {
  {
    DataHead head(*table_, kBlock);
    ASSERT_TRUE(head.allocate(512));
    table_->drop_refs(SegId{0});
  }
  EXPECT_EQ(table_->counts().free, 4u);
  EXPECT_EQ(table_->generation(SegId{0}), 1u);
}

TEST_F(Heads, ThreadsNeverGetTheSamePlace) {
  image_.memory().set_recording(false);
  DataHead one(*table_, kBlock), two(*table_, kBlock);
  std::mutex mu;
  std::set<CachePos> places;
  const auto work = [&](DataHead& head) {
    std::vector<CachePos> mine;
    while (const auto place = head.allocate(64 << 10)) mine.push_back(place.pos);
    std::lock_guard lock(mu);
    for (const CachePos& pos : mine) EXPECT_TRUE(places.insert(pos).second);
  };
  std::thread a(work, std::ref(one)), b(work, std::ref(one)), c(work, std::ref(two));
  a.join();
  b.join();
  c.join();
  // 255 places of 64 KiB and the rest fill each of the three segments that data may have.
  EXPECT_EQ(places.size(), 3u * 256);
}

// After a place was lost to a bad page.
TEST_F(Heads, LeavesASegmentThatItIsIn) {
  const auto table = image_.table(0);
  DataHead head(*table, kBlock);
  const Place first = head.allocate(4096);
  head.leave(SegId{first.pos.seg.v + 1});
  EXPECT_EQ(head.allocate(4096).pos, first.pos + 4096) << "that was another one";
  head.leave(first.pos.seg);
  CachePos pos;
  EXPECT_FALSE(head.allocate_whole(512, &pos));
  const Place next = head.allocate(512);
  EXPECT_NE(next.pos.seg, first.pos.seg);
  EXPECT_EQ(next.pos.off, 0u);
  table->drop_refs(first.pos.seg, 2);
  EXPECT_EQ(table->generation(first.pos.seg), 1u) << "it holds it no more";
}

}  // namespace
}  // namespace pcache
