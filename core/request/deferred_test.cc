// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/deferred.h"

#include <gmock/gmock.h>

#include "request/request_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

class DeferredTest : public RequestTest {
 protected:
  // Log, one segment for data, one in reserve.
  void start_full(const RequestOptions& o = {}) {
    start_small(o);
    fill();
  }
  void start_small(const RequestOptions& o = {}) {
    RequestOptions options = o;
    options.segments = 3;
    start(options);
  }
  void fill() {
    state_->deferred().set_wake([this] { wakes_++; });
    for (uint64_t i = 0;; i++) {
      waiting_ = submit(PCACHE_OP_WRITE, i % 16 << 20, 1 << 20, 1);
      if (waiting_->submitted == 0) break;
    }
  }
  // Kept to the end: its queue is destroyed before.
  Read* submit(uint32_t op, uint64_t off, uint64_t len, int value, uint32_t flags = 0) {
    auto one = std::make_unique<Read>();
    one->data = filled(len, value);
    one->request = {op, flags, off, len, one->data.data(), 1, 0, nullptr};
    one->submitted = queue_->submit(&one->request);
    requests_.push_back(std::move(one));
    return requests_.back().get();
  }
  // As reclaim does it: forgets all keys of the data segment, and frees it.
  void free_data() {
    ASSERT_TRUE(stripes_->close_all().ok());
    int64_t n = 0;
    for (const media::Key& key : logged_keys()) {
      if (key.seg_gen != table_->generation(SegId{key.cache_seg_id})) continue;
      StripeLock lock(stripes_->of(key.off));
      const CachePos pos{SegId{key.cache_seg_id}, key.cache_seg_off};
      index_->mark_clean({key.off, key.len}, pos);
      index_->remove({key.off, key.len}, pos);
      n++;
    }
    table_->drop_refs(SegId{1}, n);
  }
  std::vector<pcache_request*> reap_all() {
    pcache_request* done[64];
    const int n = queue_->reap(done, 0, 64, 0);
    return {done, done + n};
  }

  int wakes_ = 0;
  std::vector<std::unique_ptr<Read>> requests_;
  Read* waiting_ = nullptr;  // the write that found the cache full
};

TEST_F(DeferredTest, AWriteWaitsForSpaceAndGoesOn) {
  start_full();
  EXPECT_EQ(wakes_, 1) << "whoever makes room is woken at once";
  EXPECT_EQ(state_->counters().waits.load(), 1u);
  EXPECT_EQ(queue_->in_flight(), 1u);
  EXPECT_TRUE(reap_all().empty());
  state_->deferred().run();
  EXPECT_TRUE(reap_all().empty()) << "there is no space yet";
  free_data();
  EXPECT_TRUE(reap_all().empty()) << "nobody has called run()";
  state_->deferred().run();
  EXPECT_THAT(reap_all(), ElementsAre(&waiting_->request));
  EXPECT_EQ(waiting_->request.result, 0);
  // The part that was in before went with the segment that this test has freed.
  const uint64_t rest = 12 << 10;
  EXPECT_EQ(read(waiting_->request.off + (1 << 20) - rest, rest), filled(rest, 1));
}

TEST_F(DeferredTest, WaitingWritesKeepTheirOrderAndNobodyOvertakes) {
  start_full();
  auto second = submit(PCACHE_OP_WRITE, 0, 512, 2);
  EXPECT_EQ(second->submitted, 0) << "there might be room for a small one, but it is not its turn";
  auto third = submit(PCACHE_OP_WRITE, 0, 512, 3);
  auto other = make_queue();
  Read fourth;
  fourth.data = filled(512, 4);
  fourth.request = {PCACHE_OP_WRITE, 0, 0, 512, fourth.data.data(), 1, 0, nullptr};
  EXPECT_EQ(other->submit(&fourth.request), 0);
  free_data();
  state_->deferred().run();
  EXPECT_THAT(reap_all(), ElementsAre(&waiting_->request, &second->request, &third->request));
  pcache_request* done[1];
  ASSERT_EQ(other->reap(done, 1, 1, -1), 1);
  EXPECT_EQ(read_sectors(0, 512), "4");
}

// A DISCARD of which a part waits for writeback: who overlaps it comes behind it, and nobody else.
TEST_F(DeferredTest, WhoOverlapsZerosThatWaitGoesBehindThem) {
  start({.logical_bytes = 256 << 20});
  Read* const zeros = submit(PCACHE_OP_DISCARD, 0, 200 << 20, 0);
  ASSERT_EQ(zeros->submitted, 0);
  Read* const over = submit(PCACHE_OP_WRITE, 150 << 20, 4096, 5);
  EXPECT_EQ(over->submitted, 0);
  Read* const over_both = submit(PCACHE_OP_WRITE, (150 << 20) + 512, 512, 6);
  EXPECT_EQ(over_both->submitted, 0) << "behind the one before";
  EXPECT_EQ(submit(PCACHE_OP_WRITE, 210 << 20, 4096, 7)->submitted, 1);
  EXPECT_EQ(state_->deferred().count(), 3u);
  EXPECT_TRUE(state_->deferred().empty()) << "no other write waits behind them";
  zeros_->give_back(zeros_->bytes());
  for (int i = 0; i < 5; i++) state_->deferred().run();
  EXPECT_THAT(reap_all(), ElementsAre(&zeros->request, &over->request, &over_both->request));
  EXPECT_EQ(read_sectors(150 << 20, 4096), "56555555");
  EXPECT_EQ(read_sectors((150 << 20) - 512, 512), "0");
  EXPECT_EQ(submit(PCACHE_OP_WRITE, 0, 512, 1)->submitted, 1) << "nothing is left of it";
}

TEST_F(DeferredTest, ZerosGoBehindAWriteThatTheyOverlap) {
  start_full();
  const uint64_t last = waiting_->request.off + (1 << 20) - 4096;  // that part is not in yet
  Read* const zeros = submit(PCACHE_OP_DISCARD, last, 4096, 0);
  ASSERT_EQ(zeros->submitted, 0);
  Read* const write = submit(PCACHE_OP_WRITE, last, 512, 2);
  ASSERT_EQ(write->submitted, 0);
  state_->deferred().run();
  EXPECT_TRUE(reap_all().empty());
  free_data();
  for (int i = 0; i < 5; i++) state_->deferred().run();
  EXPECT_THAT(reap_all(), ElementsAre(&waiting_->request, &zeros->request, &write->request));
  EXPECT_EQ(read_sectors(last, 4096), "20000000");
}

// Hazard trimmed-too-early: what a waiting write will overwrite stays readable until it is in.
TEST_F(DeferredTest, AWaitingWriteIsNotSeenAndTakesNothingAway) {
  start_full();
  auto second = submit(PCACHE_OP_WRITE, 0, 512, 2);
  ASSERT_EQ(second->submitted, 0);
  EXPECT_EQ(read_sectors(0, 512), "1");
  EXPECT_EQ(flush(), 0) << "a flush covers what is complete, and waits for nobody";
}

// Hazard trimmed-too-early, of a write that has found space for all but its last 12 KiB.
TEST_F(DeferredTest, WhatAWaitingWriteWillOverwriteIsReadable) {
  constexpr uint64_t kOld = 12 << 10;
  const uint64_t off = (16 << 20) - kOld;
  start_small();
  ASSERT_EQ(submit(PCACHE_OP_WRITE, off, kOld, 7)->submitted, 1);
  fill();
  ASSERT_EQ(waiting_->request.off + waiting_->request.len, off + kOld);
  EXPECT_EQ(read(off, kOld), filled(kOld, 7));
  state_->deferred().run();  // and finds none again
  EXPECT_EQ(read(off, kOld), filled(kOld, 7));
}

TEST_F(DeferredTest, ItGoesOnWhereItStopped) {
  start_full();
  // The segment's data area is 12 KiB short of 16 MiB: this write is in but for its last part.
  const uint64_t off = waiting_->request.off;
  EXPECT_EQ(read_sectors(off, 512), "1");
  const auto keys_before = logged_keys().size();
  free_data();
  state_->deferred().run();
  ASSERT_EQ(reap_all().size(), 1u);
  EXPECT_EQ(flush(), 0);
  const auto keys = logged_keys();
  EXPECT_GT(keys.size(), keys_before);
  EXPECT_EQ(keys.back().len, 12u << 10) << "only the rest was written again";
}

TEST_F(DeferredTest, FuaAndPreflushAreKeptWhileItWaits) {
  start_full();
  auto fua = submit(PCACHE_OP_WRITE, 0, 512, 2, PCACHE_REQ_FUA);
  ASSERT_EQ(fua->submitted, 0);
  free_data();
  const auto before = logged_keys().size();
  state_->deferred().run();
  ASSERT_EQ(reap_all().size(), 2u);
  EXPECT_EQ(logged_keys().size(), before + 2) << "durable on completion, with what was before it";
}

TEST_F(DeferredTest, AFlushThatFindsTheLogFullWaits) {
  RequestOptions options;
  options.segments = 3;
  options.log_reserve = 0;
  options.log_head = media::kSegDataBytes - 128;  // one kset of one key, and a LAST
  start(options);
  const SegId taken = *table_->take_for_data();
  ASSERT_EQ(write(0, filled(512, 1), PCACHE_REQ_FUA), 0);
  EXPECT_EQ(write(0, filled(512, 3)), 0) << "a full log is no error of a plain write";
  auto flush = submit(PCACHE_OP_FLUSH, 0, 0, 0);
  ASSERT_EQ(flush->submitted, 0);
  auto fua = submit(PCACHE_OP_WRITE, 512, 512, 4, PCACHE_REQ_FUA);
  ASSERT_EQ(fua->submitted, 0);
  state_->deferred().run();
  EXPECT_TRUE(reap_all().empty());
  EXPECT_EQ(logged_keys().size(), 1u);
  table_->finish_filling(taken, 0);
  state_->deferred().run();
  EXPECT_THAT(reap_all(), ElementsAre(&flush->request, &fua->request));
  EXPECT_EQ(flush->request.result, 0);
  EXPECT_EQ(logged_keys().size(), 3u);
}

TEST_F(DeferredTest, DestroyingTheQueueCancelsThem) {
  start_full();
  auto second = submit(PCACHE_OP_WRITE, 0, 512, 2);
  auto other = make_queue();
  Read third;
  third.data = filled(512, 3);
  third.request = {PCACHE_OP_WRITE, 0, 0, 512, third.data.data(), 1, 0, nullptr};
  ASSERT_EQ(other->submit(&third.request), 0);
  queue_.reset();
  EXPECT_EQ(second->request.result, -ECANCELED);
  EXPECT_EQ(state_->deferred().count(), 1u) << "those of other queues stay";
  free_data();
  state_->deferred().run();
  pcache_request* done[1];
  ASSERT_EQ(other->reap(done, 1, 1, -1), 1);
  EXPECT_EQ(third.request.result, 0);
}

TEST_F(DeferredTest, CancellingGivesUpThoseOfTheQueueAndItGoesOn) {
  start_full();
  auto second = submit(PCACHE_OP_WRITE, 0, 512, 2);
  auto other = make_queue();
  Read third;
  third.data = filled(512, 3);
  third.request = {PCACHE_OP_WRITE, 0, 0, 512, third.data.data(), 1, 0, nullptr};
  ASSERT_EQ(other->submit(&third.request), 0);
  EXPECT_EQ(queue_->cancel(), 2u);
  EXPECT_THAT(reap_all(), UnorderedElementsAre(&waiting_->request, &second->request));
  EXPECT_EQ(waiting_->request.result, -ECANCELED);
  EXPECT_EQ(second->request.result, -ECANCELED);
  EXPECT_EQ(queue_->cancel(), 0u);
  EXPECT_EQ(state_->deferred().count(), 1u) << "those of other queues stay";
  free_data();
  state_->deferred().run();
  pcache_request* done[1];
  ASSERT_EQ(other->reap(done, 1, 1, -1), 1);
  EXPECT_EQ(third.request.result, 0);
  EXPECT_EQ(write(4096, filled(512, 4)), 0) << "the queue is as before";
}

TEST_F(DeferredTest, CancellingWakesTheThreadThatReaps) {
  start_full();
  std::thread canceller([this] { EXPECT_EQ(queue_->cancel(), 1u); });
  pcache_request* done[1];
  EXPECT_EQ(queue_->reap(done, 1, 1, -1), 1);
  EXPECT_EQ(done[0]->result, -ECANCELED);
  canceller.join();
}

TEST_F(DeferredTest, AFullQueueTakesNoMore) {
  start_full();
  for (int i = 0; i < 15; i++) ASSERT_EQ(submit(PCACHE_OP_WRITE, 0, 512, 2)->submitted, 0);
  EXPECT_EQ(submit(PCACHE_OP_WRITE, 0, 512, 2)->submitted, -EAGAIN);
  EXPECT_EQ(queue_->counters().writes.load(), 31u) << "15 written, 16 wait; refused is not counted";
}

TEST_F(DeferredTest, FillsTakeNoSpaceWhileWritesWait) {
  start_full();
  const uint64_t off = 20 << 20;
  EXPECT_EQ(read(off, 4096), device_bytes(off, 4096));
  EXPECT_EQ(state_->counters().fills_uncached.load(), 1u);
  EXPECT_EQ(mapped(off, 512), ".");
}

TEST_F(DeferredTest, AWaiterIsWokenByWhoMakesRoom) {
  start_full();
  std::thread maker([this] {
    free_data();
    state_->deferred().run();
  });
  pcache_request* done[1];
  EXPECT_EQ(queue_->reap(done, 1, 1, -1), 1);
  EXPECT_EQ(done[0], &waiting_->request);
  maker.join();
}

TEST_F(DeferredTest, DataThatWasLostFailsTheNextFlushOnce) {
  start();
  state_->data_lost(EIO);
  ASSERT_EQ(write(0, filled(512, 1)), 0);
  EXPECT_EQ(flush(), -EIO);
  EXPECT_EQ(flush(), 0);
}

}  // namespace
}  // namespace pcache
