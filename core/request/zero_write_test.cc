// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/zero_write.h"

#include <gmock/gmock.h>

#include <map>
#include <set>

#include "format/codec.h"
#include "request/request_for_test.h"

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

// Twice the cache's size of what is not on the device may be named: the rest waits for writeback.
TEST_P(ZeroWrite, ALongOneWaitsForWriteback) {
  RequestOptions options;
  options.logical_bytes = uint64_t{3} << 30;
  begin(options);
  const uint64_t room = 2 * uint64_t{options.segments} * media::kSegDataBytes;
  pcache_request request{PCACHE_OP_DISCARD, 0, 0, options.logical_bytes, nullptr, 0, 0, nullptr};
  ASSERT_EQ(queue_->submit(&request), 0);
  EXPECT_LE(index_->dirty_bytes(), room);
  pcache_request* done[1];
  uint64_t passed = 0;
  for (int rounds = 0; queue_->reap(done, 0, 1, 0) == 0; rounds++) {
    ASSERT_LT(rounds, 100);
    state_->deferred().run();
    EXPECT_LE(index_->dirty_bytes(), room + kRangeBytes);
    const bool waits = !state_->deferred().empty();
    EXPECT_EQ(state_->deferred().waits_for_writeback(), waits);
    if (!waits) continue;
    EXPECT_GT(index_->dirty_bytes(), room - room / 8);
    // As writeback takes them out.
    const uint64_t named = index_->dirty_bytes();
    for (uint64_t off = passed, len = 0; off < passed + named; off += len) {
      len = std::min<uint64_t>(kRangeBytes - off % kRangeBytes, passed + named - off);
      StripeLock lock(stripes_->of(off));
      ASSERT_TRUE(index_->erase({off, len}).ok());
    }
    passed += named;
  }
  EXPECT_EQ(request.result, 0);
  EXPECT_GT(passed, options.logical_bytes / 2);
  EXPECT_EQ(queue_->counters().discard_bytes.load(), options.logical_bytes);
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
  pcache_request fill{PCACHE_OP_WRITE, 0, 0, 1 << 20, nullptr, 0, 0, nullptr};
  Bytes data = filled(1 << 20, 1);
  fill.buf = data.data();
  for (uint64_t i = 0; queue_->submit(&fill) == 1; i++) fill.off = i % 16 << 20;
  pcache_request request{PCACHE_OP_WRITE_ZEROES, 0, 0, 1 << 20, nullptr, 0, 0, nullptr};
  ASSERT_EQ(queue_->submit(&request), 0);
  state_->deferred().run();
  EXPECT_FALSE(state_->deferred().waits_for_writeback()) << "there is too little space for it";
}

INSTANTIATE_TEST_SUITE_P(, ZeroWrite, ::testing::Bool(),
                         [](auto& info) { return info.param ? "crc_on" : "crc_off"; });

class ZeroExtent : public RequestTest {};

TEST_F(ZeroExtent, GrowsWithTheRange) {
  for (const bool data_crc : {false, true}) {
    RequestOptions options;
    options.data_crc = data_crc;
    start(options);
    const struct {
      uint64_t len;
      uint32_t expected, with_crc;
    } rows[] = {
        {512, 512, 512},
        {60 << 10, 60 << 10, 60 << 10},
        {1 << 20, 64 << 10, 64 << 10},
        {64 << 20, 64 << 10, 64 << 10},
        {(64 << 20) + 4096, 128 << 10, 64 << 10},
        {1 << 30, 1 << 20, 64 << 10},
        {uint64_t{4} << 30, 4 << 20, 64 << 10},
        {uint64_t{1} << 40, 4 << 20, 64 << 10},
    };
    for (const auto& row : rows)
      EXPECT_EQ(zero_extent_bytes(state_->parts(), row.len), data_crc ? row.with_crc : row.expected)
          << row.len;
  }
}

}  // namespace
}  // namespace pcache
