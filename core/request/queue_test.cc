// SPDX-License-Identifier: GPL-2.0-or-later
// What a queue admits: as many as its depth, and what its operations' table lets in.
#include "request/queue.h"

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

}  // namespace
}  // namespace pcache
