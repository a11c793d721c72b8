// SPDX-License-Identifier: GPL-2.0-or-later
// The mode of a cache: where it comes from, where it is kept, and that it changes while requests
// are in flight.
#include "cache/cache_for_test.h"
#include "cache/status.h"

namespace pcache {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class CacheModeTest : public CacheTest {
 protected:
  int device_value(uint64_t off) {
    const Bytes page = device_->peek(off, 4096);
    return page == MemoryDevice::pattern(off, 4096) ? -1 : static_cast<int>(page[0]);
  }
};

TEST_F(CacheModeTest, IsWritebackWhereNobodySaysOtherwise) {
  attach();
  EXPECT_EQ(cache_->mode(), CacheMode::kWriteback);
  EXPECT_EQ(write(0, 4096, 1), 0);
  EXPECT_EQ(device_value(0), -1);
  detach();
}

TEST_F(CacheModeTest, OfABlankDeviceIsKept) {
  options_.mode = CacheMode::kWritearound;
  attach();
  EXPECT_EQ(cache_->mode(), CacheMode::kWritearound);
  detach();
  options_.mode.reset();
  attach();
  EXPECT_EQ(cache_->mode(), CacheMode::kWritearound);
  EXPECT_THAT(status_json(*cache_), HasSubstr("\"mode\": \"writearound\""));
  detach();
}

TEST_F(CacheModeTest, AnAttachMayChangeIt) {
  prepare();
  options_.mode = CacheMode::kWritethrough;
  attach();
  EXPECT_EQ(write_through(0, 4096, 1), 0);
  EXPECT_EQ(waited_, 1);
  EXPECT_EQ(device_value(0), 1);
  detach();
  options_.mode.reset();
  attach();
  EXPECT_EQ(cache_->mode(), CacheMode::kWritethrough) << "it is on the media now";
  detach();
}

TEST_F(CacheModeTest, WhatIsDirtyAtTheAttachGoesToTheDeviceAtOnce) {
  attach();
  ASSERT_EQ(write(0, 4096, 1, PCACHE_REQ_FUA), 0);
  detach();
  options_.mode = CacheMode::kWritearound;
  attach();
  executor_->advance(milliseconds(0));
  EXPECT_EQ(device_value(0), 1);
  detach();
}

TEST_F(CacheModeTest, ChangesWhileItIsOpen) {
  attach();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_TRUE(cache_->set("cache_mode", "writethrough").ok());
  executor_->advance(milliseconds(0));
  EXPECT_EQ(device_value(0), 1) << "what was dirty";
  EXPECT_EQ(write_through(0, 4096, 2), 0);
  EXPECT_EQ(waited_, 1);
  EXPECT_EQ(device_value(0), 2);
  EXPECT_EQ(value_at(0, 4096), 2);
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  ASSERT_TRUE(cache_->set("cache_mode", "writeonly").ok());
  EXPECT_EQ(write(0, 4096, 3), 0);
  EXPECT_EQ(device_value(0), 2);
  EXPECT_FALSE(cache_->set("cache_mode", "sideways").ok());
  EXPECT_TRUE(cache_->set("cache_mode", "media").ok()) << "as it is";
  EXPECT_EQ(cache_->mode(), CacheMode::kWriteonly);
  detach();
  attach();
  EXPECT_EQ(cache_->mode(), CacheMode::kWriteonly);
  detach();
}

// The write that waits keeps its promise; the ones behind it have that of the new mode.
TEST_F(CacheModeTest, ChangesWhileAWriteWaits) {
  options_.mode = CacheMode::kPassthrough;
  attach();
  Bytes data(4096, std::byte{1});
  pcache_request waits{PCACHE_OP_WRITE, 0, 0, data.size(), data.data(), 0, 0, nullptr};
  ASSERT_EQ(queue_->submit(&waits), 0);
  ASSERT_TRUE(cache_->set_mode(CacheMode::kWriteback).ok());
  EXPECT_EQ(write(0, 4096, 2), 0);
  pcache_request* done[1];
  EXPECT_EQ(queue_->reap(done, 0, 1, 0), 0);
  executor_->advance(milliseconds(0));
  EXPECT_EQ(queue_->reap(done, 0, 1, 0), 1);
  EXPECT_EQ(waits.result, 0);
  EXPECT_GE(device_value(0), 1) << "it, or what is newer";
  EXPECT_EQ(value_at(0, 4096), 2);
  detach();
}

TEST_F(CacheModeTest, AReadonlyCacheKeepsIt) {
  options_.mode = CacheMode::kWritethrough;
  prepare();
  options_.mode.reset();
  options_.readonly = options_.pmem.read_only = options_.backing.read_only = true;
  attach();
  EXPECT_EQ(cache_->mode(), CacheMode::kWritethrough);
  EXPECT_EQ(cache_->set("cache_mode", "writeback").error().code, EROFS);
  EXPECT_EQ(cache_->mode(), CacheMode::kWritethrough);
  detach();
}

// A page of the pmem that takes no store: nothing has changed, in DRAM neither.
TEST_F(CacheModeTest, AChangeThatCannotBeKeptIsNone) {
  attach();
  memory_.make_bad(MediaOff{media::kCacheInfoOff});
  memory_.make_bad(MediaOff{media::kCacheInfoOff + media::kCacheInfoStride});
  const Status set = cache_->set("cache_mode", "writethrough");
  ASSERT_FALSE(set.ok());
  EXPECT_THAT(set.error().text, HasSubstr("cache_mode"));
  EXPECT_EQ(cache_->mode(), CacheMode::kWriteback);
  EXPECT_EQ(write(0, 4096, 1), 0) << "acknowledged in pmem";
  detach();
}

}  // namespace
}  // namespace pcache
