// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/shrink.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "segment/grow.h"
#include "testing/crash_states.h"
#include "testing/image.h"

namespace pcache {
namespace {

using namespace media;

constexpr uint32_t kOld = 5, kNew = 3;
const std::vector<uint32_t> kNewChain = {0, 1, 2};

// A cache of kOld segments, the older replicas of whose tails are in one that will go.
class Shrink : public ::testing::Test {
 protected:
  Shrink() {
    const CachePos head = image_.kset_of({}, 3);
    tails({SegId{kOld - 1}, 512}, {SegId{kOld - 1}, 512});
    tails({}, head);
    memory_.checkpoint();
  }
  void tails(CachePos key, CachePos dirty) {
    image_.key_tail(key);
    image_.dirty_tail(dirty);
  }
  static DeviceFrame frame_of(Pmem& pmem) {
    auto frame = load_frame(pmem, Log());
    EXPECT_TRUE(frame.ok()) << frame.error().text;
    return frame.take();
  }
  static Status shrink(Pmem& pmem, uint32_t seg_num = kNew) {
    DeviceFrame frame = frame_of(pmem);
    return shrink_cache(pmem, frame, seg_num);
  }
  static SuperblockState state_of(MemoryPmem& memory, uint32_t segments) {
    const auto state = validate_superblock(memory.peek<Superblock>(MediaOff{kSuperblockOff}),
                                           device_bytes(segments));
    EXPECT_TRUE(state.ok()) << state.error().text;
    return state.ok() ? state.value() : SuperblockState::kBlank;
  }
  // What a crash has left is the old cache or the new, and the next try ends it.
  void judge(MemoryPmem& image, const std::string& what) {
    EXPECT_EQ(state_of(image, kOld), SuperblockState::kValid) << what;
    auto left = load_frame(image.pmem(), Log());
    ASSERT_TRUE(left.ok()) << what << ": " << left.error().text;
    DeviceFrame again = left.take();
    seen_[{again.seg_num, again.chain.size()}]++;
    Replicated<TailPos> key_tail(key_tail_place()), dirty_tail(dirty_tail_place());
    const auto key = key_tail.load(image.pmem()), dirty = dirty_tail.load(image.pmem());
    ASSERT_TRUE(key && dirty) << what;
    EXPECT_EQ(key->cache_seg_id + dirty->cache_seg_id + key->seg_off, 0u) << what;
    EXPECT_GT(dirty->seg_off, 0u) << what;
    if (again.seg_num > kNew) {
      ASSERT_TRUE(shrink_cache(image.pmem(), again, kNew).ok()) << what;
    }
    EXPECT_EQ(state_of(image, kNew), SuperblockState::kValid) << what;
    EXPECT_EQ(frame_of(image.pmem()).chain, kNewChain) << what;
  }
  void expect_all_sizes() {
    using Sizes = std::pair<uint32_t, size_t>;
    EXPECT_EQ(seen_.size(), 3u) << "the superblock is never smaller than cache_info";
    for (const Sizes& sizes : {Sizes{kOld, kOld}, Sizes{kOld, kNew}, Sizes{kNew, kNew}})
      EXPECT_GT(seen_[sizes], 0) << sizes.first << " and " << sizes.second;
  }

  Image image_{kOld};
  MemoryPmem& memory_ = image_.memory();
  std::map<std::pair<uint32_t, size_t>, int> seen_;  // by the superblock, by cache_info
};

TEST_F(Shrink, TheFirstSegmentsAreTheCacheAndADeviceOfTheirSizeHoldsIt) {
  DeviceFrame frame = frame_of(memory_.pmem());
  ASSERT_TRUE(shrink_cache(memory_.pmem(), frame, kNew).ok());
  EXPECT_TRUE(all_durable(memory_.journal()));
  EXPECT_EQ(state_of(memory_, kNew), SuperblockState::kValid);
  for (const DeviceFrame& now : {frame, frame_of(memory_.pmem())}) {
    EXPECT_EQ(now.seg_num, kNew);
    EXPECT_EQ(now.info.n_segs, kNew);
    EXPECT_EQ(now.chain, kNewChain);
  }
}

TEST_F(Shrink, ACrashAtAnyStoreLeavesTheOldCacheOrTheNew) {
  ASSERT_TRUE(shrink(memory_.pmem()).ok());
  for_each_crash_state(memory_.journal(), {.samples = 20}, [&](auto kept, const std::string& what) {
    judge(*memory_.crash_image(kept), what);
  });
  expect_all_sizes();
}

TEST_F(Shrink, ATryThatWasKilledIsMadeDurableBeforeTheNext) {
  ASSERT_TRUE(shrink(memory_.pmem()).ok());
  for_each_killed_process(
      memory_, memory_.journal(), {.samples = 5},
      [](Pmem& pmem) {
        DeviceFrame frame = frame_of(pmem);
        if (frame.seg_num > kNew) {
          EXPECT_TRUE(shrink_cache(pmem, frame, kNew).ok());
        }
      },
      [&](MemoryPmem& image, const std::string& what) { judge(image, what); });
  expect_all_sizes();
}

// What a killed process has left is seen, and need not be durable.
TEST_F(Shrink, TheNextTryStoresAllAgain) {
  DeviceFrame frame = frame_of(memory_.pmem());
  frame.info.n_segs = kNew;
  ASSERT_TRUE(frame.info_record.write(memory_.pmem(), make_cache_info(frame.info)));
  const size_t from = memory_.journal().size();
  ASSERT_TRUE(shrink(memory_.pmem()).ok());
  const Journal& journal = memory_.journal();
  const size_t info =
      std::min(find_store(journal, MediaOff{kCacheInfoOff}, from),
               find_store(journal, MediaOff{kCacheInfoOff + kCacheInfoStride}, from));
  const size_t superblock =
      find_store(journal, MediaOff{kSuperblockOff + offsetof(Superblock, seg_num)}, from);
  EXPECT_EQ(count_fences(journal, info, superblock), 2u);
  EXPECT_EQ(frame_of(memory_.pmem()).chain, kNewChain);
}

// With the older one the log would begin in a segment that has gone.
TEST_F(Shrink, EitherReplicaOfATailServesAfterwards) {
  ASSERT_TRUE(shrink(memory_.pmem()).ok());
  for (const ReplicaPlace& place : {key_tail_place(), dirty_tail_place()}) {
    const auto one = memory_.peek<TailPos>(place.base);
    const auto other = memory_.peek<TailPos>(place.base + place.stride);
    EXPECT_EQ(one.header.crc, record_crc(one));
    EXPECT_EQ(other.header.crc, record_crc(other));
    EXPECT_EQ(one.cache_seg_id, 0u);
    EXPECT_EQ(other.cache_seg_id, 0u);
    EXPECT_EQ(one.seg_off, other.seg_off);
  }
}

// With the older one the cache would have segments that have gone.
TEST_F(Shrink, EitherReplicaOfCacheInfoServesAfterwards) {
  ASSERT_TRUE(shrink(memory_.pmem()).ok());
  for (const uint64_t slot : {uint64_t{0}, kCacheInfoStride}) {
    const auto image = memory_.crash_image({});
    image->poke(MediaOff{0}, memory_.data(), segment_off(0).v);
    image->flip_bit(MediaOff{kCacheInfoOff + slot + 8});
    EXPECT_EQ(frame_of(image->pmem()).chain, kNewChain) << slot;
  }
}

TEST_F(Shrink, WhatItCannotDoChangesNothing) {
  tails({SegId{kNew}, 0}, {SegId{kNew}, 0});
  memory_.forbid_stores();
  const auto in_the_log = shrink(memory_.pmem());
  ASSERT_FALSE(in_the_log.ok());
  EXPECT_EQ(in_the_log.error().text, "key_tail is in segment 3, which would go");
  memory_.allow_stores();
  tails({}, {});
  SegmentInfo record{};
  record.header.seq = 9;
  record.flags = kSegTypeCacheData << kSegTypeShift | kSegHasNext;
  const std::pair<uint32_t, uint32_t> links[] = {{0, 4}, {4, 1}, {1, 2}, {2, 3}};
  for (const auto& [from, to] : links) {
    record.next_seg = to;
    record.header.crc = record_crc(record);
    memory_.poke(segment_info_place(from).base, record);
  }
  record.flags &= ~kSegHasNext;
  record.header.crc = record_crc(record);
  memory_.poke(segment_info_place(3).base, record);
  memory_.forbid_stores();
  const auto in_another_order = shrink(memory_.pmem());
  ASSERT_FALSE(in_another_order.ok());
  EXPECT_THAT(in_another_order.error().text, ::testing::HasSubstr("number 1 is segment 4"));
}

TEST_F(Shrink, ItGrowsAgain) {
  ASSERT_TRUE(shrink(memory_.pmem()).ok());
  const std::vector<std::byte> garbage(64 << 10, std::byte{0x5a});
  for (uint32_t i = kNew; i < kOld; i++)
    memory_.poke(segment_off(i), garbage.data(), garbage.size());
  DeviceFrame frame = frame_of(memory_.pmem());
  ASSERT_TRUE(grow_cache(memory_.pmem(), frame, kOld).ok());
  EXPECT_EQ(frame_of(memory_.pmem()).chain, (std::vector<uint32_t>{0, 1, 2, 3, 4}));
  for (uint32_t i = kNew; i < kOld; i++) {
    Replicated<SegmentGen> gen(segment_gen_place(i));
    const auto record = gen.load(memory_.pmem());
    ASSERT_TRUE(record);
    EXPECT_EQ(record->gen, 0u);
  }
}

TEST_F(Shrink, AnErrorOfSyncEndsIt) {
  DeviceFrame frame = frame_of(memory_.pmem());
  const auto shrunk =
      shrink_cache(memory_.pmem(), frame, kNew, []() -> Status { return make_error(EIO, "no"); });
  ASSERT_FALSE(shrunk.ok());
  EXPECT_EQ(shrunk.error().text, "no");
  EXPECT_EQ(memory_.peek<Superblock>(MediaOff{kSuperblockOff}).seg_num, kOld);
}

}  // namespace
}  // namespace pcache
