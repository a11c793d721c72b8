// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/grow.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "testing/crash_states.h"
#include "testing/image.h"

namespace pcache {
namespace {

using namespace media;

constexpr uint32_t kOld = 3, kNew = 5;

class Grow : public ::testing::Test {
 protected:
  // A cache of kOld segments on a device with room for kNew, with dirty data in its log.
  Grow() {
    Image old(kOld);
    old.kset_of({}, 3);
    memory_.poke(MediaOff{0}, old.memory().data(), device_bytes(kOld));
    const std::vector<std::byte> garbage(64 << 10, std::byte{0x5a});
    for (uint32_t i = kOld; i < kNew; i++)
      memory_.poke(segment_off(i), garbage.data(), garbage.size());
    memory_.checkpoint();
  }
  static DeviceFrame frame_of(Pmem& pmem) {
    auto frame = load_frame(pmem, Log());
    EXPECT_TRUE(frame.ok()) << frame.error().text;
    return frame.take();
  }
  static Superblock superblock_of(MemoryPmem& memory) {
    return memory.peek<Superblock>(MediaOff{kSuperblockOff});
  }
  // What a crash has left is the old cache or the new, with its log, and the next try ends it.
  void judge(MemoryPmem& image, const std::string& what) {
    const auto state = validate_superblock(superblock_of(image), image.size_bytes());
    ASSERT_TRUE(state.ok()) << what << ": " << state.error().text;
    auto left = load_frame(image.pmem(), Log());
    ASSERT_TRUE(left.ok()) << what << ": " << left.error().text;
    const size_t n = left.value().chain.size();
    ASSERT_TRUE(n == kOld || n == kNew) << what << ": " << n;
    seen_[n]++;
    for (uint32_t i = 0; i < n; i++) {
      Replicated<SegmentGen> gen(segment_gen_place(i));
      ASSERT_TRUE(gen.load(image.pmem())) << what << ": segment " << i;
    }
    DeviceFrame again = left.take();
    ASSERT_TRUE(grow_cache(image.pmem(), again, kNew).ok()) << what;
    EXPECT_EQ(frame_of(image.pmem()).chain, (std::vector<uint32_t>{0, 1, 2, 3, 4})) << what;
    const uint64_t log = segment_data_off(0).v;
    EXPECT_EQ(memcmp(image.data() + log, memory_.data() + log, 4096), 0) << what;
  }
  // It was killed at any of the events so far.
  void grow_after_a_killed_process() {
    for_each_killed_process(
        memory_, memory_.journal(), {.samples = 3},
        [](Pmem& pmem) {
          DeviceFrame now = frame_of(pmem);
          EXPECT_TRUE(grow_cache(pmem, now, kNew).ok());
        },
        [&](MemoryPmem& image, const std::string& what) { judge(image, what); });
    EXPECT_GT(seen_[kOld], 10);
    EXPECT_GT(seen_[kNew], 0);
  }

  MemoryPmem memory_{device_bytes(kNew)};
  std::map<size_t, int> seen_;  // by the segments of the chain
};

TEST_F(Grow, AllSegmentsAreInTheChainAndTheSuperblockIsValid) {
  DeviceFrame frame = frame_of(memory_.pmem());
  ASSERT_EQ(frame.chain.size(), kOld);
  ASSERT_TRUE(grow_cache(memory_.pmem(), frame, kNew).ok());
  EXPECT_TRUE(all_durable(memory_.journal()));
  for (const DeviceFrame& now : {frame, frame_of(memory_.pmem())}) {
    EXPECT_EQ(now.seg_num, kNew);
    EXPECT_EQ(now.info.n_segs, kNew);
    EXPECT_EQ(now.chain, (std::vector<uint32_t>{0, 1, 2, 3, 4}));
  }
  const auto state = validate_superblock(superblock_of(memory_), memory_.size_bytes());
  EXPECT_TRUE(state.ok() && state.value() == SuperblockState::kValid);
}

// Two differences tell how it was made: the superblock's padding with its crc, and which replica of
// cache_info serves.
TEST_F(Grow, AnEmptyCacheIsAsIfFormattedInItsNewSize) {
  MemoryPmem grown(device_bytes(kNew)), fresh(device_bytes(kNew));
  Image old(kOld);
  grown.poke(MediaOff{0}, old.memory().data(), device_bytes(kOld));
  DeviceFrame frame = frame_of(grown.pmem());
  ASSERT_TRUE(grow_cache(grown.pmem(), frame, kNew).ok());
  ASSERT_TRUE(format_device(fresh.pmem(), {}).ok());
  std::vector<uint64_t> different;  // by words
  for (uint64_t at = 0; at < fresh.size_bytes(); at += 8)
    if (memcmp(grown.data() + at, fresh.data() + at, 8) != 0) different.push_back(at);
  const uint64_t sb = kSuperblockOff, info = kCacheInfoOff;
  EXPECT_EQ(different,
            (std::vector<uint64_t>{sb, sb + 16, info, info + 8, info + 16, info + kCacheInfoStride,
                                   info + kCacheInfoStride + 8}));
  EXPECT_EQ(superblock_of(grown).seg_num, kNew);
  const auto now = grown.peek<CacheInfo>(MediaOff{info});
  const auto made = fresh.peek<CacheInfo>(MediaOff{info + kCacheInfoStride});
  EXPECT_EQ(now.n_segs, made.n_segs);
  EXPECT_EQ(now.flags, made.flags);
}

TEST_F(Grow, ACrashAtAnyStoreLeavesTheOldCacheOrTheNew) {
  DeviceFrame frame = frame_of(memory_.pmem());
  ASSERT_TRUE(grow_cache(memory_.pmem(), frame, kNew).ok());
  for_each_crash_state(memory_.journal(), {.samples = 20}, [&](auto kept, const std::string& what) {
    judge(*memory_.crash_image(kept), what);
  });
  EXPECT_GT(seen_[kOld], 10);
  EXPECT_GT(seen_[kNew], 0);
}

TEST_F(Grow, ATryThatWasKilledIsMadeDurableBeforeTheNext) {
  DeviceFrame frame = frame_of(memory_.pmem());
  ASSERT_TRUE(grow_cache(memory_.pmem(), frame, kNew).ok());
  grow_after_a_killed_process();
}

// cache_info has one replica so far, which a killed process has stored over what a format left.
TEST_F(Grow, WhatServesIsMadeDurableBeforeTheOtherReplicaIsStored) {
  DeviceFrame frame = frame_of(memory_.pmem());
  ASSERT_TRUE(write_cache_info(memory_.pmem(), frame).ok());
  grow_after_a_killed_process();
}

TEST_F(Grow, AChainInAnyOrderGoesOnAtItsEnd) {
  const auto info = [&](uint32_t physical, uint32_t flags, uint32_t next) {
    SegmentInfo record{};
    record.header.seq = 3;
    record.flags = flags;
    record.next_seg = next;
    record.header.crc = record_crc(record);
    memory_.poke(segment_info_place(physical).base, record);
  };
  constexpr uint32_t kData = kSegTypeCacheData << kSegTypeShift;
  info(0, kData | kSegHasNext, 2);
  info(2, kData | kSegHasNext, 1);
  info(1, kData, 0);
  DeviceFrame frame = frame_of(memory_.pmem());
  ASSERT_TRUE(grow_cache(memory_.pmem(), frame, kNew).ok());
  EXPECT_EQ(frame_of(memory_.pmem()).chain, (std::vector<uint32_t>{0, 2, 1, 3, 4}));
}

TEST_F(Grow, ItCanBeDoneAgainAndAgain) {
  for (uint32_t n = kOld; n <= kNew; n++) {
    DeviceFrame frame = frame_of(memory_.pmem());
    ASSERT_TRUE(grow_cache(memory_.pmem(), frame, n).ok());
    EXPECT_EQ(frame_of(memory_.pmem()).info.n_segs, n);
  }
  const size_t events = memory_.journal().size();
  DeviceFrame frame = frame_of(memory_.pmem());
  ASSERT_TRUE(grow_cache(memory_.pmem(), frame, kNew).ok());
  EXPECT_EQ(memory_.journal().size(), events) << "nothing to do, nothing stored";
}

// What a killed process has left is seen, and need not be durable.
TEST_F(Grow, TheNextTryStoresAllAgain) {
  DeviceFrame frame = frame_of(memory_.pmem());
  const auto kill = []() -> Status { return make_error(EIO, "killed"); };
  ASSERT_FALSE(grow_cache(memory_.pmem(), frame, kNew, kill).ok());
  const size_t from = memory_.journal().size();
  frame = frame_of(memory_.pmem());
  ASSERT_EQ(frame.seg_num, kNew);
  ASSERT_TRUE(grow_cache(memory_.pmem(), frame, kNew).ok());
  const auto stored = [&](uint64_t at) {
    return find_store(memory_.journal(), MediaOff{at}, from) < memory_.journal().size();
  };
  const ReplicaPlace link = segment_info_place(kOld - 1);
  EXPECT_TRUE(stored(link.base.v) || stored(link.base.v + link.stride));
  EXPECT_TRUE(stored(kSuperblockOff + offsetof(Superblock, seg_num)));
}

TEST_F(Grow, AnErrorOfSyncEndsIt) {
  DeviceFrame frame = frame_of(memory_.pmem());
  const auto grown =
      grow_cache(memory_.pmem(), frame, kNew, []() -> Status { return make_error(EIO, "no"); });
  ASSERT_FALSE(grown.ok());
  EXPECT_EQ(grown.error().text, "no");
  EXPECT_EQ(frame_of(memory_.pmem()).chain.size(), kOld);
}

}  // namespace
}  // namespace pcache
