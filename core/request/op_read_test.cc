// SPDX-License-Identifier: GPL-2.0-or-later
// Reads, misses and what they leave behind; bad media. For races of fills see fill_test.cc.
#include "request/op_read.h"

#include <gmock/gmock.h>

#include <thread>

#include "base/process_barrier.h"
#include "request/request_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ReadPathTest : public RequestTest {
 protected:
  MediaOff place_of(uint64_t off) { return table_->media(lookup({off, kSectorBytes}).pos); }
};

TEST_F(ReadPathTest, AMissIsFetchedOnceAndCachedClean) {
  start();
  EXPECT_EQ(read_sectors(4096, 2048), "dddd");
  EXPECT_EQ(mapped(3584, 3072), ".CCCC.");
  EXPECT_EQ(read_sectors(4096, 2048), "dddd");
  EXPECT_THAT(device_->reads(), ElementsAre(Extent{4096, 2048}));
  ASSERT_EQ(flush(), 0);
  const auto keys = logged_keys();
  ASSERT_EQ(keys.size(), 1u);
  EXPECT_EQ(keys[0].flags, media::kKeyClean);
}

// What another thread has to itself it may have stored without a fence: a read takes it away first.
TEST_F(ReadPathTest, ReadingRevokesTheBiasOfAnotherThread) {
  if (!process_barrier_available()) GTEST_SKIP() << "membarrier(2) is not permitted here";
  start();
  for (const uint64_t len : {4096, 512, 3072}) {
    BiasedMutex& mu = stripes_->of(0).mu;
    std::thread([&] {
      for (int i = 0; i < 5000 && !mu.is_biased(); i++) ASSERT_EQ(write(0, filled(4096, 1)), 0);
      ASSERT_TRUE(mu.biased_to_this_thread());
    }).join();
    EXPECT_EQ(read(0, len), filled(len, 1));
    EXPECT_FALSE(mu.is_biased()) << len;
  }
}

TEST_F(ReadPathTest, OnlyTheGapsAreFetched) {
  start();
  ASSERT_EQ(write(1024, filled(512, 1)), 0);
  ASSERT_EQ(write(2048, filled(1024, 2)), 0);
  EXPECT_EQ(read_sectors(0, 4096), "dd1d22dd");
  EXPECT_THAT(device_->reads(),
              ElementsAre(Extent{0, 1024}, Extent{1536, 512}, Extent{3072, 1024}));
  EXPECT_EQ(mapped(0, 4096), "CCDCDDCC");
  EXPECT_EQ(queue_->counters().read_partial.load(), 1u);
}

TEST_F(ReadPathTest, AcrossRangesUpToTheDevicesEnd) {
  start();
  const uint64_t off = kRangeBytes - 1024;
  EXPECT_EQ(read(off, 4096), device_bytes(off, 4096));
  EXPECT_THAT(device_->reads(), ElementsAre(Extent{off, 1024}, Extent{kRangeBytes, 3072}));
  const uint64_t end = device_->size_bytes();
  EXPECT_EQ(read(end - 8192, 8192), device_bytes(end - 8192, 8192));
}

TEST_F(ReadPathTest, MoreThanARangeInOneRequest) {
  start();
  EXPECT_EQ(read(512, 9 << 20), device_bytes(512, 9 << 20));
  EXPECT_EQ(read(512, 9 << 20), device_bytes(512, 9 << 20));
  EXPECT_EQ(queue_->counters().read_hits.load(), 1u);
}

TEST_F(ReadPathTest, AFillIsSplitAtASegmentsEnd) {
  start();
  ASSERT_TRUE(state_->next_head().allocate(media::kSegDataBytes - 1024));
  EXPECT_EQ(read_sectors(0, 2048), "dddd");
  EXPECT_EQ(mapped(0, 2048), "CCCC");
  EXPECT_EQ(read_sectors(0, 2048), "dddd");
  EXPECT_EQ(device_->reads().size(), 1u);
}

TEST_F(ReadPathTest, AFullCacheStillReads) {
  RequestOptions options;
  options.segments = 3;
  start(options);
  for (int i = 0; i < 15; i++) ASSERT_EQ(write(0, filled(1 << 20, 1)), 0);
  ASSERT_EQ(write(0, filled((1 << 20) - media::kSegDataOff, 1)), 0);  // to the segment's end
  EXPECT_EQ(read_sectors(8 << 20, 4096), "dddddddd");
  EXPECT_EQ(mapped(8 << 20, 4096), "........") << "no marks are left";
  EXPECT_EQ(state_->counters().fills_uncached.load(), 1u);
  EXPECT_EQ(read_sectors(8 << 20, 4096), "dddddddd");
  EXPECT_EQ(device_->reads().size(), 2u);
}

TEST_F(ReadPathTest, NoMemoryForMarksStillReads) {
  RequestOptions options;
  options.max_index_blocks = 1;
  start(options);
  uint64_t off = 0;
  while (write(off, filled(512, 1)) == 0) off += 1536;
  EXPECT_EQ(read_sectors(16 << 20, 4096), "dddddddd");
  EXPECT_EQ(read_sectors(16 << 20, 4096), "dddddddd");
}

TEST_F(ReadPathTest, TheDevicesErrorIsTheReadsAndPasses) {
  start();
  device_->set_error(ENXIO);
  read(0, 4096, -ENXIO);
  EXPECT_EQ(mapped(0, 4096), "........");
  EXPECT_EQ(state_->counters().backing_errors.load(), 1u);
  EXPECT_EQ(queue_->counters().errors.load(), 1u);
  device_->set_error(0);
  EXPECT_EQ(read_sectors(0, 4096), "dddddddd");
}

class BadMedia : public ReadPathTest {
 protected:
  void start_with_crc() {
    RequestOptions options;
    options.data_crc = true;
    start(options);
  }
};

TEST_F(BadMedia, AFlippedBitInCleanDataIsReadAgainFromTheDevice) {
  start_with_crc();
  EXPECT_EQ(read_sectors(0, 4096), "dddddddd");
  image_->memory().flip_bit(place_of(0) + 700);
  EXPECT_EQ(read_sectors(0, 4096), "dddddddd");
  EXPECT_EQ(device_->reads().size(), 2u);
  EXPECT_EQ(state_->counters().clean_dropped.load(), 1u);
  EXPECT_EQ(read_sectors(0, 4096), "dddddddd");
  EXPECT_EQ(device_->reads().size(), 2u) << "cached again";
}

TEST_F(BadMedia, AFlippedBitInDirtyDataIsAnErrorEachTime) {
  start_with_crc();
  ASSERT_EQ(write(0, filled(4096, 1)), 0);
  ASSERT_EQ(write(4096, filled(4096, 2)), 0);
  image_->memory().flip_bit(place_of(0) + 4095);
  for (int i = 0; i < 2; i++) read(0, 4096, -EIO);
  read(0, 8192, -EIO);
  EXPECT_EQ(read_sectors(4096, 4096), "22222222");
  EXPECT_THAT(device_->reads(), IsEmpty());
  EXPECT_EQ(state_->counters().dirty_bad.load(), 3u);
  ASSERT_FALSE(lines_.lines.empty());
  EXPECT_THAT(lines_.lines[0], HasSubstr("dirty data of range 0+4096 is damaged (segment 1:0)"));
  ASSERT_EQ(write(0, filled(4096, 3)), 0);
  EXPECT_EQ(read_sectors(0, 4096), "33333333") << "overwritten it is good again";
}

// Hazard cut-extents-not-verified: the crc is that of the whole extent, so a cut of it is verified
// by reading all of it.
TEST_F(BadMedia, ACutOfADirtyExtentIsVerifiedAsAWhole) {
  start_with_crc();
  ASSERT_EQ(write(0, filled(4096, 1)), 0);
  const MediaOff place = place_of(0);
  ASSERT_EQ(write(1024, filled(512, 2)), 0);
  EXPECT_EQ(read_sectors(0, 4096), "11211111");
  image_->memory().flip_bit(place + 3000);
  read(2560, 512, -EIO);  // where the bit is
  read(0, 512, -EIO);     // elsewhere in the same extent: cannot be told apart
  EXPECT_EQ(read_sectors(1024, 512), "2");
  image_->memory().flip_bit(place + 3000);
  image_->memory().flip_bit(place + 1030);  // in the part that is overwritten
  read(0, 512, -EIO);
}

TEST_F(BadMedia, ACutOfACleanExtentIsReadAgain) {
  start_with_crc();
  EXPECT_EQ(read_sectors(0, 4096), "dddddddd");
  const MediaOff place = place_of(0);
  ASSERT_EQ(write(1024, filled(512, 2)), 0);
  image_->memory().flip_bit(place + 3000);
  EXPECT_EQ(read_sectors(0, 4096), "dd2ddddd");
  EXPECT_EQ(read_sectors(2560, 512), "d");
}

TEST_F(BadMedia, WithoutDataCrcAFlippedBitIsNotSeen) {
  start();
  ASSERT_EQ(write(0, filled(512, 1)), 0);
  image_->memory().flip_bit(place_of(0));
  EXPECT_EQ(read(0, 512)[0], std::byte{0});
}

TEST_F(BadMedia, AnUnreadablePageOfCleanDataIsReadAgain) {
  start();
  EXPECT_EQ(read_sectors(0, 8192), "dddddddddddddddd");
  image_->memory().make_unreadable(place_of(0));
  EXPECT_EQ(read_sectors(0, 8192), "dddddddddddddddd");
  EXPECT_EQ(device_->reads().size(), 2u);
}

TEST_F(BadMedia, AnUnreadablePageOfDirtyDataIsAnError) {
  for (const bool data_crc : {false, true}) {
    RequestOptions options;
    options.data_crc = data_crc;
    start(options);
    ASSERT_EQ(write(64 << 10, filled(512, 2)), 0);
    ASSERT_EQ(write(0, filled(4096, 1)), 0);  // 7 sectors in one page of the media, 1 in the next
    image_->memory().make_unreadable(place_of(0) + 3584);
    read(3584, 512, -EIO);
    // With data_crc the whole extent is in doubt, without it only the page.
    read(0, 512, data_crc ? -EIO : 0);
    read(64 << 10, 512);
  }
}

class Checks : public RequestTest {};

TEST_F(Checks, Table) {
  RequestOptions options;
  options.block_bytes = 4096;
  start(options);
  const uint64_t end = options.logical_bytes;
  Bytes buffer(8192);
  const struct {
    const char* name;
    uint32_t op;
    uint64_t off, len;
    bool has_buffer;
    int result;
  } rows[] = {
      {"unknown op", 5, 0, 4096, true, -EINVAL},
      {"far unknown op", ~0u, 0, 4096, true, -EINVAL},
      {"write without buffer", PCACHE_OP_WRITE, 0, 4096, false, -EINVAL},
      {"read without buffer", PCACHE_OP_READ, 0, 4096, false, -EINVAL},
      {"write of nothing", PCACHE_OP_WRITE, 0, 0, true, -EINVAL},
      {"read of nothing", PCACHE_OP_READ, 0, 0, true, -EINVAL},
      {"write off the block size", PCACHE_OP_WRITE, 512, 4096, true, -EINVAL},
      {"write of less than a block", PCACHE_OP_WRITE, 0, 512, true, -EINVAL},
      {"read off the block size", PCACHE_OP_READ, 0, 4608, true, -EINVAL},
      {"write at the end", PCACHE_OP_WRITE, end, 4096, true, -ENXIO},
      {"read over the end", PCACHE_OP_READ, end - 4096, 8192, true, -ENXIO},
      {"discard of nothing", PCACHE_OP_DISCARD, 0, 0, false, -EINVAL},
      {"zeroes off the block size", PCACHE_OP_WRITE_ZEROES, 0, 512, false, -EINVAL},
      {"discard over the end", PCACHE_OP_DISCARD, end - 4096, 8192, false, -ENXIO},
      {"off + len wraps", PCACHE_OP_WRITE, ~0ull - 4095, 8192, true, -ENXIO},
      {"endless", PCACHE_OP_READ, 0, ~0ull - 4095, true, -ENXIO},
      {"the last block", PCACHE_OP_WRITE, end - 4096, 4096, true, 0},
      {"a discard needs no buffer", PCACHE_OP_DISCARD, 0, 4096, false, 0},
      {"flush ignores the rest", PCACHE_OP_FLUSH, 1, ~0ull, false, 0},
  };
  for (const auto& row : rows)
    EXPECT_EQ(submit_now({row.op, 0, row.off, row.len, row.has_buffer ? buffer.data() : nullptr, 1,
                          0, nullptr}),
              row.result)
        << row.name;
  EXPECT_EQ(queue_->counters().errors.load(), 16u);
  EXPECT_THAT(device_->reads(), IsEmpty());
}

}  // namespace
}  // namespace pcache
