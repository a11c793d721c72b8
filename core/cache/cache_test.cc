// SPDX-License-Identifier: GPL-2.0-or-later
// Attach, the timer, close; and all that must be refused without a store.
#include "cache/cache.h"

#include <functional>

#include "cache/cache_for_test.h"
#include "cache/status.h"
#include "testing/crash_states.h"

namespace pcache {
namespace {

using namespace media;
using std::chrono::milliseconds;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CacheClock : public CacheTest {};

TEST_F(CacheClock, AKsetIsClosedBetweenOneAndTwoTicksAfterItsFirstKey) {
  for (const int written_at : {0, 1, 250, 499}) {
    attach();  // ticks at 500, 1000, ... as flush_delay_ms is 1000
    const auto ksets = [&] { return cache_->log().counters().ksets; };
    executor_->advance(milliseconds(written_at));
    ASSERT_EQ(write(0, 4096, 1), 0);
    executor_->advance(milliseconds(500 - written_at));
    EXPECT_EQ(ksets(), 0u) << "the first tick only sees it";
    executor_->advance(milliseconds(499));
    EXPECT_EQ(ksets(), 0u);
    EXPECT_EQ(cache_->stripes().open_keys(), 1u);
    executor_->advance(milliseconds(1));
    EXPECT_EQ(ksets(), 1u);
    EXPECT_EQ(cache_->stripes().open_keys(), 0u);
    detach();
  }
}

TEST_F(CacheClock, ALaterKsetOfTheSameStripeHasItsOwnTime) {
  attach();
  ASSERT_EQ(write(0, 4096, 1), 0);
  executor_->advance(milliseconds(500));
  ASSERT_EQ(write(4096, 4096, 2, PCACHE_REQ_FUA), 0);  // closes it
  ASSERT_EQ(write(0, 4096, 3), 0);
  executor_->advance(milliseconds(500));
  EXPECT_EQ(cache_->stripes().open_keys(), 1u);
  executor_->advance(milliseconds(500));
  EXPECT_EQ(cache_->stripes().open_keys(), 0u);
  detach();
}

TEST_F(CacheClock, FlushDelaySetsTheTick) {
  options_.flush_delay_ms = 10;
  attach();
  ASSERT_EQ(write(0, 4096, 1), 0);
  executor_->advance(milliseconds(10));
  EXPECT_EQ(cache_->stripes().open_keys(), 0u);
  detach();
}

class CacheAttach : public CacheTest {};

TEST_F(CacheAttach, ABlankDeviceIsFormattedAndKeepsWhatIsWritten) {
  attach();
  EXPECT_EQ(cache_->info().n_segs, 31u);
  EXPECT_EQ(cache_->info().gc_percent, 70u);
  EXPECT_FALSE(cache_->info().data_crc);
  EXPECT_THAT(lines_.lines, IsEmpty());
  EXPECT_EQ(value_at(0, 4096), -1);
  ASSERT_EQ(write(4096, 8192, 5), 0);
  detach();  // close() writes what was open
  attach();
  EXPECT_EQ(cache_->replayed().keys, 2u);
  EXPECT_EQ(cache_->replayed().dirty_keys, 1u);
  EXPECT_EQ(value_at(4096, 8192), 5);
  EXPECT_EQ(value_at(0, 4096), -1);
  detach();
}

TEST_F(CacheAttach, CloseFlushesOnceAndTwiceIsFine) {
  attach();
  ASSERT_EQ(write(0, 512, 1), 0);
  queue_.reset();
  EXPECT_TRUE(cache_->close().ok());
  EXPECT_EQ(cache_->log().counters().ksets, 1u);
  EXPECT_TRUE(cache_->close().ok());
  executor_ = nullptr;
  detach();
}

TEST_F(CacheAttach, OptionsOfABlankDevice) {
  options_.data_crc = true;
  options_.gc_percent = 20;
  attach();
  EXPECT_TRUE(cache_->info().data_crc);
  detach();
  options_ = {};
  attach();
  EXPECT_TRUE(cache_->info().data_crc);
  EXPECT_EQ(cache_->info().gc_percent, 20u);
  detach();
}

TEST_F(CacheAttach, GcPercentIsChangedForGood) {
  prepare();
  options_.gc_percent = 0;
  attach();
  detach();
  options_ = {};
  attach();
  EXPECT_EQ(cache_->info().gc_percent, 0u);
  detach();
}

TEST_F(CacheAttach, QueueDepthIsChecked) {
  attach();
  for (const uint32_t depth : {0u, 65537u, ~0u}) {
    const auto queue = cache_->create_queue(depth);
    ASSERT_FALSE(queue.ok());
    EXPECT_THAT(queue.error().text, HasSubstr("queue depth: " + std::to_string(depth)));
  }
  detach();
}

TEST_F(CacheAttach, AKernelMadeImageGetsANoticeAndAnIdentity) {
  EXPECT_TRUE(format_device(memory_.pmem(), {}).ok());
  attach();
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("no identity block")));
  detach();
  lines_.lines.clear();
  attach();
  EXPECT_THAT(lines_.lines, IsEmpty());
  detach();
}

TEST_F(CacheAttach, ForceTakesAnotherBackingDeviceWithAWarning) {
  prepare();
  backing_ = "disk serial=B";
  options_.force = true;
  attach();
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("attached all the same (force)")));
  detach();
  options_.force = false;
  attach();
  detach();
  backing_ = "disk serial=A";
  expect_refused(EXDEV, "belongs to backing device \"disk serial=B\", not to \"disk serial=A\"");
}

TEST_F(CacheAttach, ATornTailIsANotice) {
  prepare();
  memory_.poke(segment_data_off(0), uint64_t{77});
  attach();
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("ends in a torn kset at segment 0:0")));
  detach();
}

TEST_F(CacheAttach, ALostGenerationIsTakenFromTheLogAndMadeDurable) {
  prepare();
  attach();
  ASSERT_EQ(write(0, 4096, 1), 0);
  detach();
  auto key = memory_.peek<Key>(segment_data_off(0) + sizeof(KsetHeader));
  key.seg_gen = 3;  // newer than the generation record
  Image image(1);
  image.kset({}, {key});
  memory_.poke(segment_data_off(0), image.memory().data() + segment_data_off(0).v, kset_bytes(1));
  attach();
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("generation record is lost")));
  EXPECT_EQ(value_at(0, 4096), 1);
  detach();
  lines_.lines.clear();
  attach();
  EXPECT_THAT(lines_.lines, IsEmpty());
  EXPECT_EQ(value_at(0, 4096), 1);
  detach();
}

// Whatever part of an attach reached the media, the next attach finds the same data.
TEST_F(CacheAttach, ACrashAtAnyStoreOfAnAttach) {
  attach();
  ASSERT_EQ(write(4096, 4096, 9), 0);
  detach();
  memory_.poke(MediaOff{kIdentityOff}, Identity{});
  memory_.poke(segment_data_off(0) + kset_bytes(1), uint64_t{0xabc});  // a torn tail
  memory_.checkpoint();
  options_.gc_percent = 11;
  attach();
  const Journal journal = memory_.journal();
  detach();
  int states = 0;
  for_each_crash_state(
      journal, {.samples = 40}, [&](std::span<const KeptStore> kept, const std::string& what) {
        const auto image = memory_.crash_image(kept);
        auto backing = std::make_unique<MemoryDevice>(kLogicalBytes);
        backing->set_identity(backing_);
        const auto cache = Cache::attach(
            {image->make_pmem(), std::move(backing), std::make_unique<SteppedExecutor>()},
            Options());
        ASSERT_TRUE(cache.ok()) << what << ": " << cache.error().text;
        EXPECT_EQ(cache.value()->replayed().keys, 1u) << what;
        EXPECT_EQ(cache.value()->replayed().head.off, kset_bytes(1)) << what;
        states++;
      });
  EXPECT_GT(states, 50);
}

class CacheRefuses : public CacheTest {
 protected:
  void SetUp() override {
    attach();
    ASSERT_EQ(write(0, 4096, 1, PCACHE_REQ_FUA), 0);
    ASSERT_EQ(write(4096, 4096, 2, PCACHE_REQ_FUA), 0);
    detach();
  }
};

TEST_F(CacheRefuses, DamagedRecords) {
  const uint64_t log = segment_data_off(0).v;
  const struct {
    const char* name;
    std::vector<uint64_t> flips;  // one bit of each byte
    const char* text;
  } rows[] = {
      {"superblock magic", {kSuperblockOff + 8}, "not a pcache device"},
      {"superblock crc", {kSuperblockOff}, "crc is"},
      {"superblock seg_num", {kSuperblockOff + 16}, "crc is"},
      {"cache_info, both",
       {kCacheInfoOff + 12, kCacheInfoOff + kCacheInfoStride + 12},
       "neither replica"},
      {"key_tail", {kCacheCtrlOff + 8}, "key_tail at"},
      {"dirty_tail", {kCacheCtrlOff + 32 + 8}, "dirty_tail at"},
      {"segment_info, both",
       {segment_off(4).v + 8, segment_off(4).v + kSegInfoStride + 8},
       "segment 4 (number 4 of 31): its segment_info does not say"},
      {"identity", {16}, "identity block at 0: damaged"},
      {"first kset's body", {log + 30}, "a valid one follows"},
      {"first kset's magic", {log + 8}, "one field"},
      {"last kset's magic", {log + 64 + 8}, "one field"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    for (const uint64_t at : row.flips) memory_.flip_bit(MediaOff{at});
    expect_refused(EUCLEAN, row.text);
    for (const uint64_t at : row.flips) memory_.flip_bit(MediaOff{at});
  }
  attach();
  EXPECT_EQ(value_at(4096, 4096), 2);
  detach();
}

TEST_F(CacheRefuses, DataCrcAgainstTheMedia) {
  options_.data_crc = true;
  expect_refused(EINVAL, "option data_crc: 1 was asked for, the cache was formatted with 0");
}

TEST_F(CacheRefuses, AnotherBackingDevice) {
  backing_ = "disk serial=B";
  expect_refused(EXDEV, "\"disk serial=A\", not to \"disk serial=B\"");
}

TEST_F(CacheRefuses, ASmallerBackingDevice) {
  logical_bytes_ = kLogicalBytes / 2;
  expect_refused(EXDEV, "had 67108864 bytes when the cache was made for it and has 33554432");
}

TEST_F(CacheAttach, ABackingDeviceThatHasGrownIsTakenOnceWithANotice) {
  prepare();
  attach();
  ASSERT_EQ(write(0, 4096, 3), 0);
  detach();
  logical_bytes_ = kLogicalBytes * 2;
  for (const size_t notices : {1, 0}) {
    lines_.lines.clear();
    attach();
    EXPECT_EQ(value_at(0, 4096), 3);
    EXPECT_EQ(write(kLogicalBytes * 2 - 4096, 4096, 5), 0);
    EXPECT_EQ(std::count_if(lines_.lines.begin(), lines_.lines.end(),
                            [](const std::string& line) {
                              return line.find("has grown from 67108864 to 134217728") !=
                                     std::string::npos;
                            }),
              static_cast<long>(notices));
    detach();
  }
  logical_bytes_ = kLogicalBytes;
  expect_refused(EXDEV, "had 134217728 bytes");
}

TEST_F(CacheRefuses, ASizeThatIsToBeRecordedAndThatAPowerFailureMayUndo) {
  sync_error_ = ENOSPC;
  attach();  // nothing is recorded
  detach();
  logical_bytes_ = kLogicalBytes * 2;
  expect_refused(ENOSPC, "fsync fails");
}

TEST_F(CacheTest, AFirstAttachAsksNothingOfADeviceThatMayFailOrHang) {
  sync_error_ = EIO;
  attach();
  EXPECT_EQ(write(0, 4096, 1, PCACHE_REQ_FUA), 0);
}

// Another file may have got the inode's number.
TEST_F(CacheRefuses, ABackingDeviceThatHasGrownAndMayBeAnother) {
  unique_backing_ = false;
  logical_bytes_ = kLogicalBytes * 2;
  expect_refused(EXDEV, "if it is the same one, and has grown: pcachectl identity set");
}

TEST_F(CacheRefuses, KeysPastASmallerBackingDeviceEvenWithForce) {
  attach();
  ASSERT_EQ(write(kLogicalBytes - 4096, 4096, 3), 0);
  detach();
  logical_bytes_ = kLogicalBytes / 2;
  options_.force = true;
  expect_refused(EUCLEAN, "past the backing device's 33554432 bytes");
}

TEST_F(CacheRefuses, UnreadableSuperblock) {
  memory_.make_unreadable(MediaOff{kSuperblockOff});
  const auto cache = try_attach();
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.error().code, EIO);
}

TEST_F(CacheRefuses, ASuperblockLostFromACacheWithData) {
  memory_.poke(MediaOff{kSuperblockOff}, Superblock{});
  expect_refused(EUCLEAN, "damaged, not blank");
}

// The first 20 KiB are lost, but for the identity block: it says that there was a cache.
TEST_F(CacheRefuses, AnIdentityAloneIsNotBlank) {
  const std::vector<std::byte> zeros(16 << 10);
  memory_.poke(MediaOff{kSuperblockOff}, zeros.data(), zeros.size());
  expect_refused(EUCLEAN, "there is an identity block at 0: damaged, not blank");
}

// Two pages of an image with dirty data are lost: its cache_info says that there was a cache.
TEST_F(CacheRefuses, LostSuperblockAndTailsAreNotBlank) {
  const std::vector<std::byte> zeros(4096);
  memory_.poke(MediaOff{kSuperblockOff}, zeros.data(), zeros.size());
  memory_.poke(MediaOff{kCacheCtrlOff}, zeros.data(), zeros.size());
  expect_refused(EUCLEAN, "cache_info at 12288 is not zeros: damaged, not blank");
}

TEST_F(CacheRefuses, ALargerCacheSizeThanItWasFormattedWith) {
  options_.pmem.create_bytes = bytes_of_segments(32);
  expect_refused(EINVAL, "32 segments of 16 MiB, the cache was formatted with 31");
  expect_refused(EINVAL, "pcachectl resize");
  for (const uint64_t same : {bytes_of_segments(31), bytes_of_segments(32) - 1}) {
    options_.pmem.create_bytes = same;
    lines_.lines.clear();
    attach();
    EXPECT_THAT(lines_.lines, IsEmpty());
    detach();
  }
}

TEST_F(CacheAttach, ASmallerCacheSizeIsANotice) {
  prepare();
  options_.pmem.create_bytes = bytes_of_segments(30);
  attach();
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("never made smaller")));
  EXPECT_EQ(cache_->info().n_segs, 31u);
  detach();
}

class NoQueues : public MemoryDevice {
 public:
  NoQueues() : MemoryDevice(64 << 20) {}
  Result<std::unique_ptr<BlockQueue>> open_queue(unsigned) override {
    return make_error(ENOMEM, "no queue");
  }
};

// All that can be refused is refused before the first store, for a blank device, too; and a cache
// that failed to attach is not drained.
TEST_F(CacheAttach, ARefusalByTheLastResourceHasStoredNothing) {
  for (const bool blank : {true, false}) {
    if (!blank) {
      attach();
      ASSERT_EQ(write(0, 4096, 1, PCACHE_REQ_FUA), 0);
      detach();
      memory_.poke(segment_data_off(0) + kset_bytes(1), uint64_t{0xabc});  // a torn tail
    }
    memory_.checkpoint();
    memory_.forbid_stores();
    options_ = {};
    options_.drain = true;
    options_.gc_percent = 11;
    auto device = std::make_unique<NoQueues>();
    device->set_identity(backing_);
    std::vector<MemoryDevice::Change> changes;
    device->set_on_change([&](const MemoryDevice::Change& change) { changes.push_back(change); });
    const auto cache = Cache::attach(
        {memory_.make_pmem(), std::move(device), std::make_unique<SteppedExecutor>()}, options_);
    memory_.allow_stores();
    ASSERT_FALSE(cache.ok());
    EXPECT_THAT(cache.error().text, HasSubstr("no queue"));
    EXPECT_TRUE(memory_.journal().empty());
    EXPECT_TRUE(changes.empty());
    options_ = {};
  }
}

// A kernel cache, formatted over other content: page 0 is no part of the format, and not ours.
TEST_F(CacheAttach, AForeignFirstPageIsLeftAsItIs) {
  ASSERT_TRUE(format_device(memory_.pmem(), {}).ok());
  const uint64_t table = 0xaa55000000000000;
  memory_.poke(MediaOff{504}, table);
  memory_.poke(MediaOff{8}, uint64_t{0x4d5a});
  const std::vector<std::byte> page(memory_.data(), memory_.data() + kSuperblockOff);
  for (int round = 0; round < 2; round++) {
    lines_.lines.clear();
    attach();
    EXPECT_THAT(lines_.lines, Contains(HasSubstr("not ours")));
    EXPECT_THAT(lines_.lines, Contains(HasSubstr("pcachectl identity set")));
    ASSERT_EQ(write(0, 4096, 3), 0);
    EXPECT_EQ(value_at(0, 4096), 3);
    detach();
    EXPECT_EQ(memcmp(memory_.data(), page.data(), page.size()), 0);
  }
}

TEST_F(CacheAttach, AnUnreadableFirstPageDoesNotBarForce) {
  prepare();
  memory_.make_unreadable(MediaOff{0});
  const auto refused = try_attach();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, EIO);
  EXPECT_THAT(refused.error().text, HasSubstr("identity block at 0"));
  options_.force = true;
  attach();
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("not written (force)")));
  ASSERT_EQ(write(0, 4096, 3), 0);
  EXPECT_EQ(value_at(0, 4096), 3);
  detach();
  for (const PmemEvent& event : memory_.journal())
    EXPECT_TRUE(event.fence || event.off.v >= kSuperblockOff) << "a store to the bad page";
}

TEST_F(CacheAttach, TheMarkOfAnInterruptedFormatIsCleared) {
  prepare();
  memory_.poke(MediaOff{kFormatMarkOff}, kFormatMark);
  attach();
  detach();
  EXPECT_EQ(memory_.peek<uint64_t>(MediaOff{kFormatMarkOff}), 0u);
}

TEST_F(CacheAttach, SuperblockFlagsAreTheMedias) {
  prepare();
  auto sb = memory_.peek<Superblock>(MediaOff{kSuperblockOff});
  sb.flags = 0x50;
  sb.crc = record_crc(sb);
  memory_.poke(MediaOff{kSuperblockOff}, sb);
  attach();
  EXPECT_THAT(status_line(*cache_), HasSubstr(" pcache 50 31 31 "));
  detach();
}

// A device that has grown since its cache was made.
TEST_F(CacheAttach, WhatOfTheDeviceIsNotUsedIsSaid) {
  prepare();
  auto sb = memory_.peek<Superblock>(MediaOff{kSuperblockOff});
  auto info = memory_.peek<CacheInfo>(MediaOff{kCacheInfoOff + kCacheInfoStride});
  sb.seg_num = info.n_segs = 29;
  sb.crc = record_crc(sb);
  info.header.seq = 9;
  info.header.crc = record_crc(info);
  memory_.poke(MediaOff{kSuperblockOff}, sb);
  memory_.poke(MediaOff{kCacheInfoOff + kCacheInfoStride}, info);
  attach();
  EXPECT_THAT(lines_.lines, Contains(HasSubstr("made with 29 segments, 31 have room")));
  detach();
}

}  // namespace
}  // namespace pcache
