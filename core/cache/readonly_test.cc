// SPDX-License-Identifier: GPL-2.0-or-later
// The option `readonly`: all is read as it is, and no byte is stored to either device.
#include "base/forbid_for_test.h"
#include "blockdev/temp_file_for_test.h"
#include "cache/cache_for_test.h"
#include "format/layout.h"

namespace pcache {
namespace {

using namespace media;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ReadOnlyCache : public CacheTest, public ::testing::WithParamInterface<bool> {
 protected:
  // Dirty data in the log, and one key in an open kset when the cache is lost.
  void make_image() {
    options_.data_crc = GetParam();
    prepare();
    attach();
    ASSERT_EQ(write(0, 1 << 20, 1), 0);
    ASSERT_EQ(write(4096, 4096, 2, PCACHE_REQ_FUA), 0);
    detach();
    options_.data_crc.reset();
    lines_.lines.clear();
  }
  void attach_readonly() {
    options_.readonly = true;
    memory_.checkpoint();
    memory_.forbid_stores();
    attach();
    ASSERT_FALSE(HasFatalFailure());
    device_->start_journal();
  }
  void TearDown() override {
    detach();
    EXPECT_TRUE(memory_.journal().empty());
  }
};

INSTANTIATE_TEST_SUITE_P(DataCrc, ReadOnlyCache, ::testing::Bool());

TEST_P(ReadOnlyCache, ReadsWhatIsThereAndStoresNothing) {
  ASSERT_NO_FATAL_FAILURE(make_image());
  ASSERT_NO_FATAL_FAILURE(attach_readonly());
  const auto segments = [&] { return cache_->segments().counts().free; };
  const uint32_t free_before = segments();
  for (int round = 0; round < 2; round++) {
    EXPECT_EQ(value_at(0, 4096), 1);
    EXPECT_EQ(value_at(4096, 4096), 2);
    EXPECT_EQ(value_at(8192, (1 << 20) - 8192), 1);
    EXPECT_EQ(value_at(8 << 20, 1 << 20), -1) << "a miss, both times: nothing is kept";
  }
  EXPECT_EQ(cache_->requests().counters().fills.load(), 2u);
  EXPECT_EQ(cache_->requests().counters().fills_uncached.load(), 2u);
  EXPECT_EQ(segments(), free_before);
  executor_->advance(std::chrono::hours(1));
  queue_.reset();
  EXPECT_TRUE(cache_->close().ok());
  queue_.reset();
  EXPECT_TRUE(cache_->close().ok());
  EXPECT_THAT(device_->journal(), IsEmpty());
}

TEST_P(ReadOnlyCache, WritesAreRefusedAndFlushesHaveNothingToDo) {
  ASSERT_NO_FATAL_FAILURE(make_image());
  ASSERT_NO_FATAL_FAILURE(attach_readonly());
  for (const uint64_t len : {uint64_t{512}, uint64_t{4096}, uint64_t{8} << 20})
    for (const uint32_t flags : {0u, PCACHE_REQ_FUA, PCACHE_REQ_PREFLUSH})
      EXPECT_EQ(write(4096, len, 9, flags), -EROFS) << len << " " << flags;
  Bytes none;
  EXPECT_EQ(request(PCACHE_OP_FLUSH, 0, none), 0);
  EXPECT_EQ(value_at(4096, 4096), 2);
  EXPECT_EQ(cache_->drain().error().code, EROFS);
  EXPECT_EQ(cache_->set_gc_percent(50).error().code, EROFS);
  EXPECT_EQ(cache_->gc_percent(), kGcPercentDefault);
  EXPECT_THAT(device_->journal(), IsEmpty());
}

// What an attach otherwise repairs: a torn header at the log's end, cache_info, an identity block
// that a crash left unfinished.
TEST_P(ReadOnlyCache, LeavesWhatAnAttachPutsRight) {
  ASSERT_NO_FATAL_FAILURE(make_image());
  attach();
  const CachePos head = cache_->log().head();
  const MediaOff at = cache_->segments().media(head);
  detach();
  const uint64_t torn = kKsetMagic;
  memory_.poke(at + offsetof(KsetHeader, magic), torn);
  memory_.poke(MediaOff{kIdentityOff} + offsetof(Identity, magic), kIdentityUnfinished);
  ASSERT_NO_FATAL_FAILURE(attach_readonly());
  EXPECT_EQ(value_at(4096, 4096), 2);
  EXPECT_EQ(memory_.peek<uint64_t>(at + offsetof(KsetHeader, magic)), torn);
  EXPECT_TRUE(cache_->log().head() == head);
}

// Without data_crc no damage is noticed.
using ReadOnlyCacheWithDataCrc = ReadOnlyCache;
INSTANTIATE_TEST_SUITE_P(Always, ReadOnlyCacheWithDataCrc, ::testing::Values(true));

TEST_P(ReadOnlyCacheWithDataCrc, DamagedCleanDataComesFromTheDevice) {
  options_.data_crc = true;
  prepare();
  attach();
  ASSERT_EQ(value_at(0, 4096), -1);  // a fill
  Bytes none;
  ASSERT_EQ(request(PCACHE_OP_FLUSH, 0, none), 0);
  Piece piece;
  Index::Snapshot snapshot;
  cache_->index().lookup({0, 4096}, {&piece, 1}, &snapshot);
  ASSERT_EQ(piece.kind, Piece::Kind::kHit);
  const MediaOff at = cache_->segments().media(piece.pos);
  detach();
  memory_.flip_bit(at);
  ASSERT_NO_FATAL_FAILURE(attach_readonly());
  EXPECT_EQ(value_at(0, 4096), -1);
}

class ReadOnlyRefuses : public CacheTest {
 protected:
  void SetUp() override { options_.readonly = true; }
};

TEST_F(ReadOnlyRefuses, ABlankDevice) { expect_refused(EINVAL, "blank, and readonly=1 formats"); }

TEST_F(ReadOnlyRefuses, DamageAndAnotherBackingDevice) {
  options_.readonly = false;
  prepare();
  options_.readonly = true;
  backing_ = "disk serial=B";
  expect_refused(EXDEV, "belongs to backing device");
  options_.force = true;
  memory_.forbid_stores();
  attach();
  EXPECT_THAT(lines_.lines, ::testing::Contains(HasSubstr("attached all the same (force)")));
  detach();
  memory_.allow_stores();
  options_.force = false;
  backing_ = "disk serial=A";
  memory_.flip_bit(MediaOff{kSuperblockOff});
  expect_refused(EUCLEAN, "superblock");
}

// Refused before a cache file is created.
TEST(OpenCache, WithoutThreadsLeavesNothingBehind) {
  TempFile backing(64 << 20);
  const std::string cache = backing.path() + ".cache";
  Options options;
  options.pmem.path = cache;
  options.pmem.emulate = true;
  options.pmem.create_bytes = kMinDeviceBytes;
  options.backing.path = backing.path();
  std::thread([&] {
    forbid_threads_in_this_thread();
    const auto opened = Cache::open(options);
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().code, EAGAIN);
    EXPECT_THAT(opened.error().text, HasSubstr("no thread for background work can be started"));
  }).join();
  EXPECT_NE(access(cache.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace pcache
