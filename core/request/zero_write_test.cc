// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/zero_write.h"

#include <gmock/gmock.h>

#include <map>
#include <set>

#include "format/codec.h"
#include "request/request_for_test.h"
#include "testing/crash_states.h"

namespace pcache {
namespace {

using media::Key;
using media::kKeyHole;
using media::kKeyZeros;
using ::testing::IsEmpty;

class ZeroWrite : public RequestTest, public ::testing::WithParamInterface<bool> {
 protected:
  void begin(RequestOptions options = {}) {
    options.data_crc = GetParam();
    start(options);
  }
  int zeros(uint32_t op, uint64_t off, uint64_t len, uint32_t flags = 0) {
    return submit_now({op, flags, off, len, nullptr, 0, 0, nullptr});
  }
  int discard(uint64_t off, uint64_t len, uint32_t flags = 0) {
    return zeros(PCACHE_OP_DISCARD, off, len, flags);
  }
  static CachePos place(const Key& key) { return {SegId{key.cache_seg_id}, key.cache_seg_off}; }
  uint64_t stored_bytes(const std::vector<Key>& keys) {
    std::map<CachePos, uint64_t> places;
    for (const Key& key : keys)
      places[place(key)] = std::max<uint64_t>(places[place(key)], key.len);
    uint64_t bytes = 0;
    for (const auto& [pos, len] : places) bytes += len;
    return bytes;
  }
};

TEST_P(ZeroWrite, TheRangeReadsAsZeros) {
  begin();
  constexpr struct {
    uint64_t off, len;
  } kRows[] = {{0, 512},
               {512, 1024},
               {4096, 4096},
               {2048, 12288},
               {kRangeBytes - 512, 1024},
               {kRangeBytes - 4096, 2 * uint64_t{kRangeBytes}},
               {(8 << 20) + 512, (1 << 20) + 1024}};
  for (const uint32_t op : {PCACHE_OP_DISCARD, PCACHE_OP_WRITE_ZEROES})
    for (const auto& [off, len] : kRows) {
      SCOPED_TRACE(std::to_string(off) + "+" + std::to_string(len));
      const uint64_t before = off < 512 ? 0 : 512;
      ASSERT_EQ(write(off - before, filled(len + before + 512, 5)), 0);
      ASSERT_EQ(zeros(op, off, len), 0);
      EXPECT_EQ(read_sectors(off, len), std::string(len / 512, '0'));
      EXPECT_EQ(read_sectors(off + len, 512), "5");
      if (before > 0) {
        EXPECT_EQ(read_sectors(off - before, before), "5");
      }
    }
  EXPECT_THAT(device_->reads(), IsEmpty());
}

// With data_crc each key has the crc of its own zeros.
TEST_P(ZeroWrite, TheKeysOfARequestNameOnePlace) {
  RequestOptions options;
  options.logical_bytes = 1 << 30;
  begin(options);
  ASSERT_EQ(discard(4096, (64 << 20) + 512), 0);
  ASSERT_EQ(flush(), 0);
  const auto keys = logged_keys();
  EXPECT_EQ(keys.size(), 1025u) << "64 KiB each, and two shorter ones";
  EXPECT_EQ(stored_bytes(keys), 64u << 10);
  uint64_t named = 0;
  for (const Key& key : keys) {
    EXPECT_EQ(key.flags, kKeyZeros | kKeyHole);
    EXPECT_EQ(place(key), place(keys[0]));
    named += key.len;
    const Bytes nothing(key.len);
    if (GetParam()) {
      EXPECT_EQ(key.data_crc, data_crc32c(nothing.data(), nothing.size()));
    }
  }
  EXPECT_EQ(named, (64u << 20) + 512);
  // Each holds a reference: the segment comes free with the last.
  queue_.reset();
  state_->close_heads();
  const uint32_t data = table_->counts().data;
  table_->drop_refs(place(keys[0]).seg, static_cast<int64_t>(keys.size()) - 1);
  EXPECT_EQ(table_->counts().data, data);
  table_->drop_refs(place(keys[0]).seg, 1);
  EXPECT_EQ(table_->counts().data, data - 1);
}

TEST_P(ZeroWrite, AWriteOfZerosIsNoHole) {
  begin();
  ASSERT_EQ(zeros(PCACHE_OP_WRITE_ZEROES, 0, 4096, PCACHE_REQ_FUA), 0);
  const auto keys = logged_keys();
  ASSERT_EQ(keys.size(), 1u) << "FUA has made it durable";
  EXPECT_EQ(keys[0].flags, kKeyZeros);
  EXPECT_EQ(keys[0].len, 4096u);
}

// Reclaim, and writeback, tell by the place whose entry it is that the index has.
TEST_P(ZeroWrite, NoTwoRequestsShareAPlace) {
  begin();
  for (int i = 0; i < 3; i++) ASSERT_EQ(discard(0, 8 << 20), 0);
  ASSERT_EQ(flush(), 0);
  std::map<uint64_t, std::set<CachePos>> places;  // by offset
  for (const Key& key : logged_keys()) places[key.off].insert(place(key));
  for (const auto& [off, of] : places) EXPECT_EQ(of.size(), 3u) << off;
}

TEST_P(ZeroWrite, AtTheEndOfASegmentItTakesTheNext) {
  begin();
  // Of the segment 4 KiB are left.
  ASSERT_EQ(write(0, filled(media::kSegDataBytes - 4096, 1)), 0);
  ASSERT_EQ(discard(16 << 20, 1 << 20), 0);
  ASSERT_EQ(flush(), 0);
  std::set<CachePos> places;
  for (const Key& key : logged_keys())
    if (key.flags & kKeyZeros) {
      places.insert(place(key));
    }
  EXPECT_EQ(places.size(), 1u);
  EXPECT_EQ(read_sectors(16 << 20, 1 << 20), std::string(2048, '0'));
}

TEST_P(ZeroWrite, APlaceOnABadPageIsGivenUp) {
  begin();
  ASSERT_EQ(write(0, filled(4096, 1)), 0);
  const MediaOff next = table_->media(lookup({0, 4096}).pos) + 4096;
  image_->memory().make_bad(next);
  ASSERT_EQ(discard(1 << 20, 64 << 10), 0);
  EXPECT_EQ(read_sectors(1 << 20, 64 << 10), std::string(128, '0'));
  EXPECT_EQ(table_->counts().retired, 1u);
}

TEST_P(ZeroWrite, NothingIsStoredForAMiss) {
  begin();
  const auto miss = submit_read(0, 4096);
  device_->hold();
  const auto held = submit_read(8192, 4096);
  ASSERT_EQ(discard(8192, 4096), 0);
  device_->release_all();
  pcache_request* done[2];
  while (queue_->in_flight() > 0) queue_->reap(done, 1, 2, -1);
  EXPECT_EQ(read_sectors(8192, 4096), "00000000") << "the fill came later, with older data";
}

// As much as the cache's size of what is not on the device may be named: the rest waits for
// writeback, and nobody waits for it.
TEST_P(ZeroWrite, ALongOneWaitsForWriteback) {
  RequestOptions options;
  options.logical_bytes = uint64_t{3} << 30;
  begin(options);
  pcache_request request{PCACHE_OP_DISCARD, 0, 0, options.logical_bytes, nullptr, 0, 0, nullptr};
  ASSERT_EQ(queue_->submit(&request), 0);
  pcache_request* done[1];
  uint64_t passed = 0;
  for (int rounds = 0; queue_->reap(done, 0, 1, 0) == 0; rounds++) {
    ASSERT_LT(rounds, 100);
    state_->deferred().run();
    EXPECT_LE(zeros_->bytes(), zeros_->most_bytes());
    if (state_->deferred().count() == 0) continue;
    EXPECT_TRUE(state_->deferred().waits_for_writeback());
    EXPECT_GT(zeros_->bytes(), zeros_->most_bytes() / 8 * 7);
    EXPECT_EQ(write(0, filled(4096, 3)), 0) << "in front of it";
    passed += zeros_->bytes();
    zeros_->give_back(zeros_->bytes());  // as when dirty_tail passes them
  }
  EXPECT_EQ(request.result, 0);
  EXPECT_GT(passed, options.logical_bytes / 2);
  EXPECT_EQ(queue_->counters().discard_bytes.load(), options.logical_bytes);
}

TEST_P(ZeroWrite, OthersOfItsKindWaitBehindIt) {
  RequestOptions options;
  options.logical_bytes = uint64_t{3} << 30;
  begin(options);
  pcache_request first{PCACHE_OP_DISCARD, 0, 0, options.logical_bytes, nullptr, 0, 0, nullptr};
  pcache_request second{PCACHE_OP_WRITE_ZEROES, 0, 0, 4096, nullptr, 0, 0, nullptr};
  ASSERT_EQ(queue_->submit(&first), 0);
  ASSERT_EQ(queue_->submit(&second), 0);
  pcache_request* done[2];
  while (queue_->reap(done, 0, 1, 0) == 0) {
    state_->deferred().run();
    zeros_->give_back(zeros_->bytes());
  }
  EXPECT_EQ(done[0], &first);
  while (queue_->reap(done, 0, 1, 0) == 0) state_->deferred().run();
  EXPECT_EQ(done[0], &second);
}

// What requests do at the same time counts for each other; what fails is given back.
TEST_P(ZeroWrite, WhatWaitsForTheDeviceIsCounted) {
  begin();
  ASSERT_EQ(discard(0, 1 << 20), 0);
  ASSERT_EQ(discard(0, 1 << 20), 0) << "of the same range: the device gets both under strict";
  EXPECT_EQ(zeros_->bytes(), 2u << 20);
  ZeroBacklog few(8192);
  EXPECT_EQ(few.take(12288, 4096, 4096), 8192u);
  EXPECT_EQ(few.take(4096, 4096, 4096), 0u);
  few.give_back(4096);
  EXPECT_EQ(few.take(8192, 8192, 4096), 0u) << "too little at a time";
  EXPECT_EQ(few.take(4096, 8192, 4096), 4096u) << "but that is all it wants";
  few.give_back(1 << 20);
  EXPECT_EQ(few.bytes(), 0u);
}

// We never look at them, but the kernel target does: what a key of zeros names is zeros, durably.
TEST_P(ZeroWrite, TheirPlaceHoldsZerosAfterEveryCrash) {
  begin();
  // Of the segment's earlier life.
  const Bytes garbage(256 << 10, std::byte{0x77});
  for (uint32_t seg = 0; seg < table_->size(); seg++)
    if (seg != log_start_.seg.v)
      image_->memory().poke(table_->media({SegId{seg}, 0}), garbage.data(), garbage.size());
  image_->memory().checkpoint();
  ASSERT_EQ(discard(0, 128 << 10, PCACHE_REQ_FUA), 0);
  const Journal journal = image_->memory().journal();
  size_t states_with_keys = 0;
  for_each_crash_state(journal, {}, [&](std::span<const KeptStore> kept, const std::string& what) {
    const auto image = image_->memory().crash_image(kept);
    LogCursor cursor(image->pmem(), *table_, log_start_);
    for (;;) {
      const auto item = cursor.next();
      if (!item.ok() || item.value().kind == LogItem::Kind::kEnd) break;
      for (const Key& key : item.value().keys) {
        states_with_keys++;
        Bytes data(key.len);
        ASSERT_TRUE(image->pmem().load(data.data(), table_->media(place(key)), data.size()));
        ASSERT_EQ(data, Bytes(key.len)) << what;
      }
    }
  });
  EXPECT_GT(states_with_keys, 0u);
}

// Nobody looks at its data.
TEST_P(ZeroWrite, ADamagedPlaceDoesNoHarm) {
  begin();
  ASSERT_EQ(discard(0, 128 << 10), 0);
  image_->memory().make_unreadable(table_->media(lookup({0, 4096}).pos));
  EXPECT_EQ(read_sectors(0, 128 << 10), std::string(256, '0'));
  EXPECT_EQ(read_sectors(512, 512), "0");
}

TEST_P(ZeroWrite, CancelledWhileItWaits) {
  RequestOptions options;
  options.logical_bytes = uint64_t{3} << 30;
  begin(options);
  pcache_request request{PCACHE_OP_DISCARD, 0, 0, options.logical_bytes, nullptr, 0, 0, nullptr};
  ASSERT_EQ(queue_->submit(&request), 0);
  state_->deferred().run();
  ASSERT_TRUE(state_->deferred().waits_for_writeback());
  EXPECT_EQ(queue_->cancel(), 1u);
  pcache_request* done[1];
  ASSERT_EQ(queue_->reap(done, 1, 1, 0), 1);
  EXPECT_EQ(request.result, -ECANCELED);
  EXPECT_FALSE(state_->deferred().waits_for_writeback());
}

TEST_P(ZeroWrite, AFullCacheLetsItWaitForSpace) {
  begin();
  for (uint64_t i = 0; table_->counts().free > table_->counts().log_reserve; i++)
    ASSERT_EQ(write(i % 16 << 20, filled(1 << 20, 1)), 0);
  std::vector<pcache_request> requests(
      300, {PCACHE_OP_WRITE_ZEROES, 0, 0, 64 << 10, nullptr, 0, 0, nullptr});
  size_t n = 0;
  while (n < requests.size() && queue_->submit(&requests[n]) == 1) n++;
  ASSERT_LT(n, requests.size());
  state_->deferred().run();
  EXPECT_EQ(state_->deferred().count(), 1u);
  EXPECT_FALSE(state_->deferred().waits_for_writeback()) << "there is too little space for it";
  queue_.reset();  // which gives the request up
}

INSTANTIATE_TEST_SUITE_P(, ZeroWrite, ::testing::Bool(),
                         [](auto& info) { return info.param ? "crc_on" : "crc_off"; });

TEST(ZeroExtent, GrowsWithTheRange) {
  EXPECT_EQ(zero_extent_bytes(512), 512u);
  EXPECT_EQ(zero_extent_bytes(60 << 10), 60u << 10);
  EXPECT_EQ(zero_extent_bytes(1 << 20), 64u << 10);
  EXPECT_EQ(zero_extent_bytes(64 << 20), 64u << 10);
  EXPECT_EQ(zero_extent_bytes((64 << 20) + 4096), 128u << 10);
  EXPECT_EQ(zero_extent_bytes(kMostZeroPartBytes), 1u << 20);
}

}  // namespace
}  // namespace pcache
