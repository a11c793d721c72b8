// SPDX-License-Identifier: GPL-2.0-or-later
// What a queue admits: as many as its depth, and what its operations' table lets in; one request,
// or a batch.
#include "request/queue.h"

#include <deque>

#include "request/request_for_test.h"

namespace pcache {
namespace {

class QueueTest : public RequestTest {
 protected:
  void start_as(bool readonly) {
    RequestOptions options;
    options.readonly = readonly;
    start(options);
  }
  // A queue of one request, which is at the device.
  void fill_queue() {
    queue_ = make_queue(1);
    device_->hold();
    in_flight_ = submit_read(8 << 20, 512);
    ASSERT_EQ(in_flight_->submitted, 0);
  }
  void TearDown() override {
    if (device_ != nullptr) device_->release_all();
    RequestTest::TearDown();
  }
  // What submit() returns; in `result_` the request's.
  int submit(uint32_t op, uint64_t len = 512) {
    pcache_request request{op, 0, 0, len, data_.data(), 1, 0, nullptr};
    const int submitted = queue_->submit(&request);
    result_ = request.result;
    return submitted;
  }

  Bytes data_ = filled(512, 1);
  std::unique_ptr<Read> in_flight_;
  int result_ = 0;
};

TEST_F(QueueTest, AFullOneTakesAFlushAlone) {
  start_as(false);
  fill_queue();
  EXPECT_EQ(submit(PCACHE_OP_READ), -EAGAIN);
  EXPECT_EQ(submit(PCACHE_OP_WRITE), -EAGAIN);
  EXPECT_EQ(submit(PCACHE_OP_FLUSH), 1);
  EXPECT_EQ(result_, 0);
}

TEST_F(QueueTest, OfAReadonlyCacheRefusesWritesEvenWhenFull) {
  start_as(true);
  fill_queue();
  EXPECT_EQ(submit(PCACHE_OP_READ), -EAGAIN);
  EXPECT_EQ(submit(PCACHE_OP_WRITE), 1);
  EXPECT_EQ(result_, -EROFS);
  EXPECT_EQ(submit(PCACHE_OP_FLUSH), 1);
  EXPECT_EQ(result_, 0) << "there is nothing to make durable";
  EXPECT_EQ(queue_->counters().errors.load(), 1u);
  EXPECT_EQ(queue_->counters().flushes.load(), 1u);
}

TEST_F(QueueTest, ADisownedOneTakesNothing) {
  for (const bool readonly : {false, true})
    for (const bool full : {false, true}) {
      SCOPED_TRACE(::testing::Message() << "readonly " << readonly << ", full " << full);
      start_as(readonly);
      if (full) fill_queue();
      queue_->disown();
      for (const uint32_t op : {PCACHE_OP_READ, PCACHE_OP_WRITE, PCACHE_OP_FLUSH})
        EXPECT_EQ(submit(op), -EPERM) << op;
      EXPECT_EQ(submit(PCACHE_OP_READ, 100), 1);
      EXPECT_EQ(result_, -EINVAL) << "what is wrong is told first";
      device_->release_all();
    }
}

class BatchTest : public QueueTest {
 protected:
  pcache_request& add(uint32_t op, uint64_t off, uint64_t len, int value = 0xdd) {
    buffers_.push_back(filled(len, value));
    requests_.push_back(pcache_request{op, 0, off, len, buffers_.back().data(), 1, 0, nullptr});
    return requests_.back();
  }
  // What submit_batch() returns; in `done_` what is complete.
  int submit_all() {
    std::vector<pcache_request*> batch;
    for (pcache_request& request : requests_) batch.push_back(&request);
    done_.assign(batch.size(), nullptr);
    uint32_t count = 1000;
    const int taken = queue_->submit_batch(batch, done_.data(), &count);
    EXPECT_LE(count, batch.size());
    done_.resize(count);
    return taken;
  }

  std::deque<Bytes> buffers_;
  std::deque<pcache_request> requests_;
  std::vector<pcache_request*> done_;
};

// Longer than what is looked ahead, of whole pages and of parts, some of which are in pieces.
TEST_F(BatchTest, IsServedInOrder) {
  for (const bool data_crc : {false, true}) {
    RequestOptions options;
    options.data_crc = data_crc;
    start(options);
    requests_.clear();
    constexpr int kRounds = 50;
    for (int i = 0; i < kRounds; i++) {
      const uint64_t off = i % 7 * 4096, len = i % 3 == 0 ? 512 : 4096;
      add(PCACHE_OP_WRITE, off, len, i);
      add(PCACHE_OP_READ, off, len);
    }
    ASSERT_EQ(submit_all(), 2 * kRounds);
    ASSERT_EQ(done_.size(), 2u * kRounds);
    for (int i = 0; i < kRounds; i++) {
      const pcache_request& read = requests_[2 * i + 1];
      EXPECT_EQ(done_[2 * i + 1], &read);
      EXPECT_EQ(read.result, 0);
      EXPECT_EQ(memcmp(read.buf, requests_[2 * i].buf, read.len), 0) << i;
    }
    EXPECT_EQ(queue_->counters().read_hits.load(), uint64_t{kRounds});
    queue_.reset();
    buffers_.clear();
  }
}

TEST_F(BatchTest, AnEmptyOneIsTaken) {
  start_as(false);
  EXPECT_EQ(submit_all(), 0);
  EXPECT_TRUE(done_.empty());
}

// Each is refused for itself, and nothing is looked for where no device is.
TEST_F(BatchTest, WrongRequestsAreRefusedAmongOthers) {
  start_as(false);
  ASSERT_EQ(write(0, filled(4096, 5)), 0);
  add(PCACHE_OP_READ, UINT64_MAX - 511, 512);
  add(PCACHE_OP_READ, device_->size_bytes(), 4096);
  add(PCACHE_OP_READ, 0, 4096);
  add(PCACHE_OP_WRITE, 100, 4096);
  add(99, 0, 4096);
  add(PCACHE_OP_FLUSH, UINT64_MAX, 0);
  add(PCACHE_OP_READ, device_->size_bytes() - 4096, 8192);
  ASSERT_EQ(submit_all(), 7);
  ASSERT_EQ(done_.size(), 7u);
  std::vector<int> results;
  for (const pcache_request* request : done_) results.push_back(request->result);
  EXPECT_EQ(results, (std::vector<int>{-ENXIO, -ENXIO, 0, -EINVAL, -EINVAL, 0, -ENXIO}));
  EXPECT_EQ(buffers_[2], filled(4096, 5));
}

TEST_F(BatchTest, MissesComeOutOfReap) {
  start_as(false);
  ASSERT_EQ(write(4096, filled(4096, 5)), 0);
  for (uint64_t page = 0; page < 3; page++) add(PCACHE_OP_READ, page * 4096, 4096);
  device_->hold();
  ASSERT_EQ(submit_all(), 3);
  EXPECT_EQ(done_, (std::vector<pcache_request*>{&requests_[1]}));
  EXPECT_EQ(queue_->in_flight(), 2u);
  device_->release_all();
  EXPECT_EQ(reap(*queue_), 2);
  EXPECT_EQ(buffers_[0], device_bytes(0, 4096));
  EXPECT_EQ(buffers_[1], filled(4096, 5));
  EXPECT_EQ(buffers_[2], device_bytes(8192, 4096));
}

TEST_F(BatchTest, AFullQueueTakesItsFront) {
  start_as(false);
  ASSERT_EQ(write(0, filled(4096, 5)), 0);
  fill_queue();
  add(PCACHE_OP_FLUSH, 0, 0);
  add(PCACHE_OP_READ, 0, 4096);
  EXPECT_EQ(submit_all(), 1);
  EXPECT_EQ(done_, (std::vector<pcache_request*>{&requests_[0]}));
  requests_.pop_front();
  EXPECT_EQ(submit_all(), -EAGAIN);
  EXPECT_TRUE(done_.empty());
}

TEST_F(BatchTest, ADisownedQueueTakesNone) {
  start_as(false);
  queue_->disown();
  add(PCACHE_OP_READ, 0, 4096);
  EXPECT_EQ(submit_all(), -EPERM);
  EXPECT_TRUE(done_.empty());
}

// Of the caller's: a request more than `depth` is a miss, and none of those behind it is taken.
TEST_F(BatchTest, MissesFillAQueue) {
  start_as(false);
  queue_ = make_queue(2);
  device_->hold();
  for (uint64_t page = 0; page < 4; page++) add(PCACHE_OP_READ, page * 4096, 4096);
  EXPECT_EQ(submit_all(), 2);
  EXPECT_EQ(queue_->in_flight(), 2u);
  device_->release_all();
  EXPECT_EQ(reap(*queue_), 2);
}

}  // namespace
}  // namespace pcache
