// SPDX-License-Identifier: GPL-2.0-or-later
// Writes, flush and FUA: what is stored where, what reaches the log, and when.
#include "request/op_write.h"

#include <gmock/gmock.h>

#include "request/request_for_test.h"
#include "testing/crash_states.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class WritePath : public RequestTest {
 protected:
  static std::string text(const media::Key& key) {
    return std::to_string(key.off) + "+" + std::to_string(key.len) + "@" +
           std::to_string(key.cache_seg_id) + ":" + std::to_string(key.cache_seg_off);
  }
  std::vector<std::string> logged() {
    std::vector<std::string> texts;
    for (const auto& key : logged_keys()) texts.push_back(text(key));
    return texts;
  }
};

TEST_F(WritePath, IsReadBackWithoutTheDevice) {
  start();
  ASSERT_EQ(write(512, filled(1024, 1)), 0);
  EXPECT_EQ(read_sectors(512, 1024), "11");
  EXPECT_THAT(device_->reads(), IsEmpty());
  EXPECT_EQ(mapped(0, 2048), ".DD.");
}

TEST_F(WritePath, DataIsFencedBeforeItsKsetIsWritten) {
  start();
  ASSERT_EQ(write(0, filled(4096, 1), PCACHE_REQ_FUA), 0);
  const Journal& journal = image_->memory().journal();
  const size_t data = find_store(journal, table_->media({SegId{1}, 0}));
  const size_t kset = find_store(journal, table_->media({SegId{0}, 0}));
  ASSERT_LT(data, kset);
  ASSERT_LT(kset, journal.size());
  EXPECT_GE(count_fences(journal, data, kset), 2u) << "the data's, and the one before the header";
  EXPECT_TRUE(journal.back().fence);
}

TEST_F(WritePath, OneKeyForEachRangeAndPlace) {
  start();
  ASSERT_EQ(write(kRangeBytes - 1024, filled(4096, 1), PCACHE_REQ_FUA), 0);
  EXPECT_THAT(logged(), ElementsAre("4193280+1024@1:0", "4194304+3072@1:1024"));
}

TEST_F(WritePath, SplitAtASegmentsEnd) {
  start();
  ASSERT_TRUE(state_->next_head().allocate(media::kSegDataBytes - 1024));
  ASSERT_EQ(write(0, filled(4096, 1), PCACHE_REQ_FUA), 0);
  EXPECT_THAT(logged(), ElementsAre("0+1024@1:16763904", "1024+3072@2:0"));
  EXPECT_EQ(read_sectors(0, 4096), "11111111");
}

TEST_F(WritePath, WithDataCrcExtentsAreShortAndCarryTheirCrc) {
  RequestOptions options;
  options.data_crc = true;
  start(options);
  const Bytes data = device_bytes(12345 * 512, 40 << 10);
  ASSERT_EQ(write(0, data, PCACHE_REQ_FUA), 0);
  const auto keys = logged_keys();
  ASSERT_EQ(keys.size(), data.size() / kCrcExtentBytes);
  for (const auto& key : keys) {
    EXPECT_LE(key.len, kCrcExtentBytes);
    EXPECT_EQ(key.data_crc, data_crc32c(data.data() + key.off, key.len));
  }
  EXPECT_EQ(read(0, data.size()), data);
}

TEST_F(WritePath, WithDataCrcLongWritesAreCutWherePagesEnd) {
  RequestOptions options;
  options.data_crc = true;
  start(options);
  ASSERT_EQ(write(512, device_bytes(0, 8192), PCACHE_REQ_FUA), 0);
  ASSERT_EQ(write(512, device_bytes(0, 4096), PCACHE_REQ_FUA), 0);  // short enough for one
  std::vector<uint32_t> lengths;
  for (const auto& key : logged_keys()) lengths.push_back(key.len);
  EXPECT_EQ(lengths, (std::vector<uint32_t>{3584, 4096, 512, 4096}));
}

TEST_F(WritePath, AWholeMegabyteAcrossARange) {
  start();
  const Bytes data = device_bytes(777 * 512, 1 << 20);
  ASSERT_EQ(write(kRangeBytes - (512 << 10), data), 0);
  EXPECT_EQ(read(kRangeBytes - (512 << 10), data.size()), data);
}

TEST_F(WritePath, MoreExtentsThanOneFenceTakes) {
  RequestOptions options;
  options.data_crc = true;
  start(options);
  const Bytes data = device_bytes(31 * 512, 3 << 20);  // 768 extents of 4 KiB
  ASSERT_EQ(write(0, data), 0);
  EXPECT_EQ(read(0, data.size()), data);
}

TEST_F(WritePath, NoMemoryForTheIndexGivesReferencesBack) {
  RequestOptions options;
  options.max_index_blocks = 1;
  start(options);
  int result = 0;
  uint64_t good = 0;
  for (uint64_t i = 0; i < 20000 && result == 0; i++) {
    result = write(i * 1536, filled(512, 1));  // splits a page each
    good += result == 0;
  }
  ASSERT_EQ(result, -ENOMEM);
  ASSERT_EQ(flush(), 0);
  EXPECT_EQ(logged_keys().size(), good);
  queue_.reset();
  state_->close_heads();
  table_->drop_refs(SegId{1}, static_cast<int64_t>(good));
  EXPECT_EQ(table_->counts().data, 0u);
}

TEST_F(WritePath, AFullKsetIsCommittedWithoutAFlush) {
  start();
  for (uint32_t i = 0; i < media::kKeysPerKset - 1; i++)
    ASSERT_EQ(write(i * 512, filled(512, 1)), 0);
  EXPECT_THAT(logged_keys(), IsEmpty());
  EXPECT_EQ(stripes_->open_keys(), media::kKeysPerKset - 1);
  ASSERT_EQ(write(1 << 20, filled(512, 1)), 0);
  EXPECT_EQ(logged_keys().size(), media::kKeysPerKset);
  EXPECT_EQ(stripes_->open_keys(), 0u);
}

TEST_F(WritePath, FlushClosesEveryOpenKset) {
  start();
  for (uint64_t range = 0; range < 8; range++)  // over all four stripes, twice
    ASSERT_EQ(write(range * kRangeBytes, filled(512, 1)), 0);
  EXPECT_EQ(stripes_->open_keys(), 8u);
  ASSERT_EQ(flush(), 0);
  EXPECT_EQ(stripes_->open_keys(), 0u);
  EXPECT_EQ(logged_keys().size(), 8u);
  EXPECT_TRUE(image_->memory().journal().back().fence);
  const size_t events = image_->memory().journal().size();
  ASSERT_EQ(flush(), 0);
  EXPECT_EQ(image_->memory().journal().size(), events) << "nothing to do";
}

TEST_F(WritePath, TheLogKeepsTheOrderOfOneRange) {
  start();
  for (uint32_t i = 0; i < 300; i++) ASSERT_EQ(write(8192, filled(512, i % 10)), 0);
  ASSERT_EQ(flush(), 0);
  const auto keys = logged_keys();
  ASSERT_EQ(keys.size(), 300u);
  for (uint32_t i = 0; i < 300; i++) EXPECT_EQ(keys[i].cache_seg_off, i * 512);
}

TEST_F(WritePath, FuaClosesAllItsKsets) {
  start();
  ASSERT_EQ(write(0, filled(512, 1)), 0);
  ASSERT_EQ(write(kRangeBytes - 512, filled(1024, 2), PCACHE_REQ_FUA), 0);
  EXPECT_THAT(logged(), ElementsAre("0+512@1:0", "4193792+512@1:512", "4194304+512@1:1024"));
}

// Hazard lock-held-while-copying.
TEST_F(WritePath, NoLockIsHeldWhileDataIsStored) {
  start();
  size_t data_bytes = 0;
  image_->memory().set_on_store([&](size_t len_bytes) {
    if (len_bytes < kPageBytes) return;  // a kset
    data_bytes += len_bytes;
    for (uint64_t range = 0; range < stripes_->count(); range++) {
      BiasedMutex& mu = stripes_->of(range * kRangeBytes).mu;
      const bool free = mu.try_lock();
      EXPECT_TRUE(free);
      if (free) mu.unlock();
    }
  });
  ASSERT_EQ(write(0, filled(1 << 20, 1), PCACHE_REQ_FUA), 0);
  ASSERT_EQ(read(8 << 20, 1 << 16), device_bytes(8 << 20, 1 << 16));  // a fill
  EXPECT_EQ(data_bytes, (1u << 20) + (1u << 16));
  image_->memory().set_on_store(nullptr);
}

// Hazards preflush-forgotten, preflush-drops-data: a write with PREFLUSH does both, the flush
// first.
TEST_F(WritePath, PreflushMakesEarlierWritesDurableAndWrites) {
  start();
  ASSERT_EQ(write(0, filled(512, 1)), 0);
  ASSERT_EQ(write(512, filled(512, 2), PCACHE_REQ_PREFLUSH), 0);
  EXPECT_THAT(logged(), ElementsAre("0+512@1:0"));
  EXPECT_EQ(read_sectors(0, 1024), "12");
  ASSERT_EQ(write(1024, filled(512, 3), PCACHE_REQ_PREFLUSH | PCACHE_REQ_FUA), 0);
  EXPECT_EQ(logged().size(), 3u);
}

// Every FUA-acknowledged write is found after every crash, and nothing that was never written is.
TEST_F(WritePath, CrashAtEveryStoreAndFence) {
  start();
  for (int i = 1; i <= 4; i++) ASSERT_EQ(write((i % 2) * 512, filled(1024, i), PCACHE_REQ_FUA), 0);
  const Journal& journal = image_->memory().journal();
  for_each_crash_state(journal, {}, [&](std::span<const KeptStore> kept, const std::string& what) {
    const auto image = image_->memory().crash_image(kept);
    const auto table = image_->table(image->pmem());
    LogCursor cursor(image->pmem(), *table, CachePos{});
    for (int i = 1;; i++) {
      const auto item = cursor.next();
      ASSERT_TRUE(item.ok()) << what << item.error().text;
      if (item.value().kind == LogItem::Kind::kEnd) break;
      const media::Key& key = item.value().keys[0];
      const auto data =
          image->data() + table->media({SegId{key.cache_seg_id}, key.cache_seg_off}).v;
      EXPECT_EQ(memcmp(data, filled(1024, i).data(), 1024), 0) << what;
    }
  });
}

// The head is at segment 1, of which a page is bad.
class BadPageWrites : public WritePath {
 protected:
  void make_bad(uint32_t seg, uint32_t off) {
    image_->memory().make_bad(table_->media({SegId{seg}, off}));
  }
};

TEST_F(BadPageWrites, GoElsewhereAndStayThere) {
  for (const bool crc : {false, true}) {
    RequestOptions options;
    options.data_crc = crc;
    start(options);
    ASSERT_EQ(write(0, filled(4096, 1)), 0);
    make_bad(1, 8192);
    ASSERT_EQ(write(4096, filled(4096, 2)), 0);
    ASSERT_EQ(write(8192, filled(4096, 3)), 0);
    ASSERT_EQ(write(12288, filled(4096, 4), PCACHE_REQ_FUA), 0);
    EXPECT_THAT(logged(), ElementsAre("0+4096@1:0", "4096+4096@1:4096", "8192+4096@2:0",
                                      "12288+4096@2:4096"));
    EXPECT_EQ(read_sectors(0, 16384), "11111111222222223333333344444444");
    EXPECT_EQ(table_->counts().retired, 1u);
  }
}

TEST_F(BadPageWrites, OfManyPartsAndOfAFewSectors) {
  start();
  make_bad(1, 1 << 20);
  make_bad(2, 0);
  ASSERT_EQ(write(0, filled(8 << 20, 1)), 0);
  ASSERT_EQ(write(512, filled(512, 2), PCACHE_REQ_FUA), 0);
  EXPECT_EQ(read(1024, (8 << 20) - 1024), filled((8 << 20) - 1024, 1));
  EXPECT_EQ(read_sectors(0, 1024), "12");
  EXPECT_EQ(table_->counts().retired, 2u);
}

// Its references go: nothing of it holds the segment once its other data is gone.
TEST_F(BadPageWrites, TheRetiredSegmentIsEmptyWhenItsDataIsGone) {
  start();
  ASSERT_EQ(write(0, filled(4096, 1)), 0);
  make_bad(1, 4096);
  ASSERT_EQ(write(4096, filled(4096, 2)), 0);
  EXPECT_EQ(table_->counts().data, 2u);
  forget({0, 4096});
  table_->drop_refs(SegId{1});
  EXPECT_EQ(table_->counts().data, 1u);
  EXPECT_EQ(table_->counts().free, table_->size() - 3) << "the log's, the new one, the retired one";
}

TEST_F(BadPageWrites, AFillGoesElsewhere) {
  start();
  make_bad(1, 0);
  EXPECT_EQ(read_sectors(0, 4096), "dddddddd");
  EXPECT_EQ(mapped(0, 4096), "CCCCCCCC");
  EXPECT_EQ(read_sectors(0, 4096), "dddddddd");
  EXPECT_EQ(device_->reads().size(), 1u) << "the second one is a hit";
  EXPECT_EQ(table_->counts().retired, 1u);
}

TEST_F(BadPageWrites, WhereEverySegmentHasOneTheyFail) {
  start();
  for (uint32_t seg = 1; seg < 8; seg++) make_bad(seg, 0);
  EXPECT_EQ(write(0, filled(4096, 1)), -EIO);
  EXPECT_EQ(write(0, filled(4096, 1)), -EIO) << "and do not wait for ever";
  EXPECT_EQ(read_sectors(0, 4096), "dddddddd") << "reads go on";
  EXPECT_EQ(flush(), 0) << "there is nothing to make durable";
}

// Else they would be acknowledged for ever, and nothing of them ever be durable.
TEST_F(BadPageWrites, FailWhenTheLogHasFailed) {
  start();
  state_->deferred().set_wake([this] { state_->deferred().run(); });
  log_->set_on_failed([this](const Error&) { state_->deferred().close(); });
  ASSERT_EQ(write(0, filled(4096, 1)), 0);
  make_bad(0, 0);
  ASSERT_EQ(write(4096, filled(4096, 2), PCACHE_REQ_FUA), -EIO);
  pcache_request later{PCACHE_OP_WRITE, 0, 0, 512, nullptr, 0, 0, nullptr};
  Bytes data = filled(512, 3);
  later.buf = data.data();
  EXPECT_EQ(queue_->submit(&later), 0);
  pcache_request* done[1];
  ASSERT_EQ(queue_->reap(done, 0, 1, 0), 1);
  EXPECT_EQ(later.result, -EIO);
  EXPECT_EQ(flush(), -EIO);
  EXPECT_EQ(read_sectors(0, 4096), "11111111") << "reads go on, and nothing has changed";
  EXPECT_EQ(read_sectors(1 << 20, 512), "d");
}

}  // namespace
}  // namespace pcache
