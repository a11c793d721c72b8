// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/format_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <set>

#include "segment/identity.h"
#include "testing/crash_states.h"
#include "testing/image.h"

namespace pcache {
namespace {

using namespace media;
using ::testing::HasSubstr;

constexpr uint64_t kDeviceBytes = 512 << 20;

// The first byte that differs from the unpacked zstd file, or -1.
int64_t first_difference(const std::string& path, const MemoryPmem& memory) {
  FILE* pipe = popen(("zstd -qdc --long=27 '" + path + "'").c_str(), "r");
  if (!pipe) return 0;
  std::vector<std::byte> chunk(1 << 20);
  uint64_t at = 0;
  int64_t different = -1;
  while (const size_t n = fread(chunk.data(), 1, chunk.size(), pipe)) {
    if (different < 0 &&
        (at + n > memory.size_bytes() || memcmp(memory.data() + at, chunk.data(), n)))
      for (size_t i = 0; i < n && different < 0; i++)
        if (at + i >= memory.size_bytes() || memory.data()[at + i] != chunk[i])
          different = static_cast<int64_t>(at + i);
    at += n;
  }
  EXPECT_EQ(pclose(pipe), 0) << path;
  EXPECT_EQ(at, memory.size_bytes()) << path;
  return different;
}

TEST(FormatDevice, IsByteForByteWhatTheKernelWrites) {
  MemoryPmem memory(kDeviceBytes);
  EXPECT_TRUE(format_device(memory.pmem(), {}).ok());
  EXPECT_EQ(first_difference(PCACHE_SOURCE_DIR "/tests/testdata/a_empty_crcoff.pmem.zst", memory),
            -1);
}

TEST(FormatDevice, OverGarbageItLeavesTheSameRecords) {
  MemoryPmem fresh(device_bytes(3)), used(device_bytes(3));
  const std::vector<std::byte> garbage(64 << 10, std::byte{0x5a});
  for (const uint64_t off : {kCacheInfoOff, segment_off(0).v, segment_off(1).v, segment_off(2).v})
    used.poke(MediaOff{off}, garbage.data(), off == kCacheInfoOff ? 12 << 10 : garbage.size());
  EXPECT_TRUE(format_device(fresh.pmem(), {}).ok());
  EXPECT_TRUE(format_device(used.pmem(), {}).ok());
  for (const PmemEvent& event : fresh.journal()) {
    if (event.fence) continue;
    EXPECT_EQ(memcmp(fresh.data() + event.off.v, used.data() + event.off.v, event.bytes.size()), 0)
        << "at " << event.off.v;
  }
}

TEST(FormatDevice, OptionsGoIntoCacheInfo) {
  MemoryPmem memory(device_bytes(4));
  EXPECT_TRUE(format_device(memory.pmem(), {true, 33}).ok());
  const auto frame = load_frame(memory.pmem(), Log());
  ASSERT_TRUE(frame.ok());
  EXPECT_TRUE(frame.value().info.data_crc);
  EXPECT_EQ(frame.value().info.gc_percent, 33u);
  EXPECT_EQ(frame.value().chain, (std::vector<uint32_t>{0, 1, 2, 3}));
}

class FormatCrash : public ::testing::Test {
 protected:
  // A device that was in use before; its superblock was wiped so that it can be formatted.
  FormatCrash() {
    const std::vector<std::byte> old(64 << 10, std::byte{0xa5});
    for (uint32_t i = 0; i < 31; i++) memory_.poke(segment_off(i), old.data(), old.size());
    memory_.checkpoint();
    EXPECT_TRUE(format_device(memory_.pmem(), {}).ok());
  }
  // Checks that the image is blank or complete, never half.
  void check(std::span<const KeptStore> kept, const std::string& what) {
    const auto image = memory_.crash_image(kept);
    const auto state = probe_device(image->pmem());
    if (!state) {
      refused_++;
      if (refused_ <= 3) ADD_FAILURE() << what << ": " << state.error().text;
      return;
    }
    if (state.value() == DeviceState::kBlank) {
      blank_++;
      return;
    }
    complete_++;
    const auto frame = load_frame(image->pmem(), Log());
    ASSERT_TRUE(frame.ok()) << what << ": " << frame.error().text;
    ASSERT_EQ(frame.value().chain.size(), 31u) << what;
    for (const PmemEvent& event : memory_.journal()) {
      if (event.fence || event.covers(MediaOff{kFormatMarkOff})) continue;
      ASSERT_EQ(
          memcmp(image->data() + event.off.v, memory_.data() + event.off.v, event.bytes.size()), 0)
          << what;
    }
  }
  MemoryPmem memory_{kDeviceBytes};
  int refused_ = 0, blank_ = 0, complete_ = 0;
};

// While the old superblock stands, only the mark is stored; then the superblock goes first.
TEST_F(FormatCrash, TheOldSuperblockGoesFirst) {
  const Journal& journal = memory_.journal();
  EXPECT_TRUE(journal[0].covers(MediaOff{kFormatMarkOff}));
  EXPECT_TRUE(journal[1].fence);
  EXPECT_TRUE(journal[2].covers(MediaOff{kSuperblockOff + offsetof(Superblock, magic)}));
  EXPECT_EQ(journal[2].bytes.size(), sizeof(uint64_t));
  EXPECT_TRUE(journal[3].fence);
}

// A crash leaves the old cache, a blank device or the new cache. What it leaves is never taken for
// a cache that has lost its superblock.
TEST_F(FormatCrash, OverALiveCache) {
  memory_.poke(segment_data_off(0), make_last_kset(SegId{1}));
  memory_.checkpoint();
  ASSERT_TRUE(format_device(memory_.pmem(), {true, 33}).ok());
  int old_one = 0, blank = 0, new_one = 0;
  for_each_crash_state(memory_.journal(), {},
                       [&](std::span<const KeptStore> kept, const std::string& what) {
                         const auto image = memory_.crash_image(kept);
                         const auto state = probe_device(image->pmem());
                         ASSERT_TRUE(state.ok()) << what << ": " << state.error().text;
                         if (state.value() == DeviceState::kBlank) return void(blank++);
                         const auto frame = load_frame(image->pmem(), Log());
                         ASSERT_TRUE(frame.ok()) << what << ": " << frame.error().text;
                         (frame.value().info.data_crc ? new_one : old_one)++;
                         clear_format_mark(image->pmem());
                         EXPECT_TRUE(all_durable(image->journal())) << what;
                         EXPECT_EQ(image->peek<uint64_t>(MediaOff{kFormatMarkOff}), 0u) << what;
                       });
  EXPECT_GT(old_one, 0);
  EXPECT_GT(blank, 100);
  EXPECT_GT(new_one, 0);
}

TEST_F(FormatCrash, ItIsDurableWhenItReturns) { EXPECT_TRUE(all_durable(memory_.journal())); }

TEST_F(FormatCrash, AtEveryStoreAndFence) {
  for_each_crash_state(
      memory_.journal(), {},
      [&](std::span<const KeptStore> kept, const std::string& what) { check(kept, what); });
  EXPECT_EQ(refused_, 0);
  EXPECT_GT(blank_, 100);
  EXPECT_GT(complete_, 0);
}

// The superblock has 24 bytes; the CPU stores at most 8 of them as a whole.
TEST_F(FormatCrash, WithTheSuperblockTorn) {
  const Journal& journal = memory_.journal();
  const size_t sb = find_store(journal, MediaOff{kSuperblockOff}, 100);
  ASSERT_LT(sb, journal.size());
  Journal before(journal.begin(), journal.begin() + static_cast<ptrdiff_t>(sb));
  std::vector<KeptStore> durable;
  for (const PmemEvent& event : before)
    if (!event.fence) durable.push_back({event.off, event.bytes});
  const Journal end(journal.begin() + static_cast<ptrdiff_t>(sb), journal.end());
  for_each_crash_state(end, {}, [&](std::span<const KeptStore> kept, const std::string& what) {
    std::vector<KeptStore> all = durable;
    all.insert(all.end(), kept.begin(), kept.end());
    check(all, what);
  });
  EXPECT_EQ(refused_, 0) << "a format that a crash interrupted must be blank, or complete";
}

class Frame : public ::testing::Test {
 protected:
  // Of the first segment's newest segment_info and so on; a fresh format's is in slot 0, the last's
  // in 1.
  void patch_segment_info(uint32_t physical, uint32_t flags, uint32_t next) {
    SegmentInfo info{};
    info.header.seq = 2;
    info.flags = flags;
    info.next_seg = next;
    info.header.crc = record_crc(info);
    image_.memory().poke(segment_info_place(physical).base, info);
  }
  void patch_cache_info(uint32_t first, uint32_t n) {
    CacheInfoFields fields;
    fields.first_seg = first;
    fields.n_segs = n;
    fields.init_done = true;
    CacheInfo info = make_cache_info(fields);
    info.header.seq = 1;
    info.header.crc = record_crc(info);
    image_.memory().poke(MediaOff{kCacheInfoOff + kCacheInfoStride}, info);
  }
  std::string error() {
    image_.memory().forbid_stores();  // never formatted again, nor repaired
    const auto frame = load_frame(image_.pmem(), log_.log());
    image_.memory().allow_stores();
    return frame ? "no error" : frame.error().text;
  }
  static constexpr uint32_t kData = kSegTypeCacheData << kSegTypeShift;
  static constexpr uint32_t kDataWithNext = kData | kSegHasNext;
  Image image_{5};
  LogLines log_;
};

TEST_F(Frame, AChainInAnyOrder) {
  patch_segment_info(0, kDataWithNext, 4);
  patch_segment_info(4, kDataWithNext, 2);
  patch_cache_info(0, 3);
  const auto frame = load_frame(image_.pmem(), Log());
  ASSERT_TRUE(frame.ok()) << frame.error().text;
  EXPECT_EQ(frame.value().chain, (std::vector<uint32_t>{0, 4, 2}));
}

TEST_F(Frame, ACycleIsRefused) {
  patch_segment_info(2, kDataWithNext, 0);
  EXPECT_THAT(error(), HasSubstr("segment 0 comes again as number 3 of 5"));
}

TEST_F(Frame, ASegmentThatLeadsToItselfIsRefused) {
  patch_segment_info(0, kDataWithNext, 0);
  EXPECT_THAT(error(), HasSubstr("cycle"));
}

TEST_F(Frame, ALinkOutOfRangeIsRefused) {
  for (const uint32_t next : {5u, 1048576u, ~0u}) {
    patch_segment_info(1, kDataWithNext, next);
    EXPECT_THAT(error(), HasSubstr("leads to segment " + std::to_string(next) + " of 5"));
  }
}

TEST_F(Frame, AChainThatEndsEarlyIsRefused) {
  patch_segment_info(1, kData, 0);
  EXPECT_THAT(error(), HasSubstr("segment chain: segment 1 (number 1 of 5)"));
}

TEST_F(Frame, SegmentInfoTornInBothReplicasIsRefused) {
  image_.memory().flip_bit(segment_info_place(3).base + 8);
  EXPECT_EQ(error(), "no error") << "the older one says that it is the last: see the next test";
  image_.memory().flip_bit(segment_info_place(3).base + kSegInfoStride + 8);
  EXPECT_THAT(error(), HasSubstr("its segment_info does not say what follows"));
}

// Slot 1 is older than the link to the next segment, and the replica with the link is torn.
// Formatting links every segment to the one behind it.
TEST_F(Frame, ATornLinkIsAsFormattingMadeIt) {
  image_.memory().flip_bit(segment_info_place(3).base + 8);
  bool guessed = false;
  EXPECT_EQ(next_segment(image_.pmem(), 3, 5, &guessed), 4u);
  EXPECT_TRUE(guessed);
  EXPECT_EQ(next_segment(image_.pmem(), 2, 5, &guessed), 3u);
  EXPECT_FALSE(guessed);
  patch_segment_info(1, kDataWithNext, 3);
  EXPECT_EQ(next_segment(image_.pmem(), 3, 5, &guessed), std::nullopt) << "not such a chain";
}

TEST_F(Frame, UnreadableSegmentInfoIsRefused) {
  image_.memory().make_unreadable(segment_info_place(3).base);
  image_.memory().make_unreadable(segment_info_place(3).base + kSegInfoStride);
  EXPECT_THAT(error(), HasSubstr("segment 3"));
}

TEST_F(Frame, CacheInfoOutOfRangeIsRefused) {
  patch_cache_info(5, 1);
  EXPECT_THAT(error(), HasSubstr("1 segments from segment 5 on"));
  patch_cache_info(0, 6);
  EXPECT_THAT(error(), HasSubstr("6 segments"));
}

// Hazard formatted-again: a valid superblock without a valid cache_info is damage, not a new cache.
TEST_F(Frame, MissingCacheInfoIsRefusedAndNeverFormattedAgain) {
  image_.memory().flip_bit(MediaOff{kCacheInfoOff + kCacheInfoStride + 8});
  EXPECT_THAT(error(), HasSubstr("cache_info at 8192 and 12288: neither replica is valid"));
}

TEST_F(Frame, GcPercentOutOfRangeIsClampedWithAWarning) {
  CacheInfoFields fields;
  fields.n_segs = 5;
  fields.init_done = true;
  fields.gc_percent = 127;
  CacheInfo info = make_cache_info(fields);
  info.header.seq = 1;
  info.header.crc = record_crc(info);
  image_.memory().poke(MediaOff{kCacheInfoOff + kCacheInfoStride}, info);
  EXPECT_EQ(error(), "no error");
  ASSERT_EQ(log_.lines.size(), 1u);
  EXPECT_THAT(log_.lines[0], HasSubstr("gc_percent"));
}

TEST_F(Frame, WriteCacheInfoGoesToTheOtherSlotAndIsFenced) {
  auto frame = load_frame(image_.pmem(), Log());
  ASSERT_TRUE(frame.ok());
  frame.value().info.gc_percent = 12;
  EXPECT_TRUE(write_cache_info(image_.pmem(), frame.value()).ok());
  const Journal& journal = image_.memory().journal();
  ASSERT_EQ(journal.size(), 2u);
  EXPECT_EQ(journal[0].off.v, kCacheInfoOff);
  EXPECT_TRUE(journal[1].fence);
  EXPECT_EQ(load_frame(image_.pmem(), Log()).value().info.gc_percent, 12u);
}

// The first write of a cache goes to a replica that has never held a record.
TEST_F(Frame, AToolChangesCacheInfoOverWhatAKilledProcessHasLeft) {
  const auto write = [](Pmem& pmem, uint32_t gc_percent, auto how) {
    DeviceFrame frame = load_frame(pmem, Log()).take();
    frame.info.gc_percent = gc_percent;
    EXPECT_TRUE(how(pmem, frame).ok());
  };
  image_.memory().checkpoint();
  write(image_.pmem(), 12, write_cache_info);
  std::set<uint32_t> seen;
  for_each_killed_process(
      image_.memory(), image_.memory().journal(), {},
      [&](Pmem& pmem) { write(pmem, 13, change_cache_info); },
      [&](MemoryPmem& image, const std::string& what) {
        const auto frame = load_frame(image.pmem(), Log());
        ASSERT_TRUE(frame.ok()) << what << ": " << frame.error().text;
        seen.insert(frame.value().info.gc_percent);
      });
  EXPECT_EQ(seen, (std::set<uint32_t>{12, 13, media::kGcPercentDefault}));
}

class Probe : public ::testing::Test {
 protected:
  std::string verdict() {
    const auto state = probe_device(memory_.pmem());
    if (!state) return state.error().text;
    return state.value() == DeviceState::kBlank ? "blank" : "formatted";
  }
  MemoryPmem memory_{kDeviceBytes};
};

TEST_F(Probe, ZerosAreBlankAndAFormatIsFormatted) {
  EXPECT_EQ(verdict(), "blank");
  EXPECT_TRUE(format_device(memory_.pmem(), {}).ok());
  EXPECT_EQ(verdict(), "formatted");
}

TEST_F(Probe, TooSmall) {
  MemoryPmem small(kDeviceBytes - 4096);
  const auto state = probe_device(small.pmem());
  ASSERT_FALSE(state.ok());
  EXPECT_EQ(state.error().code, EINVAL);
  EXPECT_THAT(state.error().text, HasSubstr("536866816 bytes, at least 536870912"));
}

TEST_F(Probe, AForeignFirstPageIsNotBlank) {
  memory_.poke(MediaOff{0}, uint64_t{0x4d5a});
  EXPECT_THAT(verdict(), HasSubstr("hold something else"));
}

// If the superblock is gone, any other record says that there was a cache.
TEST_F(Probe, OneRecordThatIsLeftIsNotBlank) {
  ASSERT_TRUE(format_device(memory_.pmem(), {}).ok());
  ASSERT_TRUE(write_identity(memory_.pmem(), {"disk", 512}, 0).ok());
  std::vector<std::byte> all(memory_.data(), memory_.data() + kSegmentsOff);
  for (const auto& [off, word] : std::vector<std::pair<uint64_t, const char*>>{
           {kIdentityOff, "identity block"},
           {kCacheInfoOff, "cache_info at 8192"},
           {kCacheInfoOff + kCacheInfoStride, "cache_info at 12288"},
           {kCacheCtrlOff, "cache_ctrl at 16384"}}) {
    memory_.poke(MediaOff{0}, std::vector<char>(kSegmentsOff).data(), kSegmentsOff);
    EXPECT_EQ(verdict(), "blank");
    // A format never writes the first replica of cache_info.
    const uint64_t from = off == kCacheInfoOff ? off + kCacheInfoStride : off;
    memory_.poke(MediaOff{off}, &all[from], kCacheInfoStride);
    EXPECT_THAT(verdict(), HasSubstr(word));
    EXPECT_THAT(verdict(), HasSubstr("damaged, not blank"));
    EXPECT_THAT(verdict(), HasSubstr("first 20 KiB"));
  }
}

TEST_F(Probe, AnyByteOfTheFirst20KiBIsNotBlank) {
  for (uint64_t off = 0; off < kSegmentsOff; off += 509) {
    memory_.poke(MediaOff{off}, char{1});
    const auto state = probe_device(memory_.pmem());
    ASSERT_FALSE(state.ok()) << off;
    EXPECT_EQ(state.error().code, EUCLEAN) << off;
    memory_.poke(MediaOff{off}, char{0});
  }
  memory_.poke(MediaOff{kSegmentsOff}, char{1});
  EXPECT_EQ(verdict(), "blank");
}

TEST_F(Probe, ACutDeviceSaysBothLengths) {
  MemoryPmem whole(kDeviceBytes + 2 * kSegmentBytes), cut(kDeviceBytes);
  ASSERT_TRUE(format_device(whole.pmem(), {}).ok());
  cut.poke(MediaOff{0}, whole.data(), kSegmentsOff);
  const auto state = probe_device(cut.pmem());
  ASSERT_FALSE(state.ok());
  EXPECT_EQ(state.error().code, EUCLEAN);
  EXPECT_THAT(state.error().text, HasSubstr("33 segments, which need 553668608 bytes"));
  EXPECT_THAT(state.error().text, HasSubstr("has 536870912 and holds 31"));
  MemoryPmem small(kDeviceBytes - kSegmentBytes);
  small.poke(MediaOff{0}, whole.data(), kSegmentsOff);
  const auto smaller = probe_device(small.pmem());
  ASSERT_FALSE(smaller.ok());
  EXPECT_EQ(smaller.error().code, EINVAL);
  EXPECT_THAT(smaller.error().text, HasSubstr("has 520093696 bytes"));
  EXPECT_THAT(smaller.error().text, HasSubstr("553668608: it was cut"));
}

TEST(Unused, IsSaidWhenItIsASegmentOrMore) {
  const uint64_t most = bytes_of_segments(kMaxSegments);
  EXPECT_EQ(unused_text(bytes_of_segments(31), 31), "");
  EXPECT_EQ(unused_text(bytes_of_segments(32) - 1, 31), "");
  EXPECT_THAT(unused_text(bytes_of_segments(32), 31),
              testing::AllOf(HasSubstr("16777216 bytes"), HasSubstr("31 segments"),
                             HasSubstr("32 have room"), HasSubstr("pcachectl resize")));
  EXPECT_EQ(unused_text(most, kMaxSegments), "");
  EXPECT_EQ(unused_text(most + kSegmentBytes - 1, kMaxSegments), "");
  EXPECT_THAT(unused_text(most + (uint64_t{1} << 40), kMaxSegments),
              testing::AllOf(HasSubstr("1099511627776 bytes"), HasSubstr("1048576 segments")));
  EXPECT_EQ(segments_of_device(most + (uint64_t{1} << 40)), kMaxSegments);
}

TEST_F(Probe, AnUnreadableSuperblock) {
  memory_.make_unreadable(MediaOff{kSuperblockOff});
  const auto state = probe_device(memory_.pmem());
  ASSERT_FALSE(state.ok());
  EXPECT_EQ(state.error().code, EIO);
}

TEST_F(Probe, ALostSuperblockOverALogWithDataIsNotBlank) {
  EXPECT_TRUE(format_device(memory_.pmem(), {}).ok());
  memory_.poke(segment_data_off(0), make_last_kset(SegId{1}));
  memory_.poke(MediaOff{kSuperblockOff}, Superblock{});
  EXPECT_THAT(verdict(), HasSubstr("damaged, not blank"));
}

TEST_F(Probe, ALostMagicIsNotBlank) {
  EXPECT_TRUE(format_device(memory_.pmem(), {}).ok());
  memory_.poke(segment_data_off(0), make_last_kset(SegId{1}));
  memory_.poke(MediaOff{kSuperblockOff} + offsetof(Superblock, magic), uint64_t{0});
  EXPECT_THAT(verdict(), HasSubstr("damaged, not blank"));
}

}  // namespace
}  // namespace pcache
