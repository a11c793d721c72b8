// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/device_acks.h"

#include <gmock/gmock.h>

#include "request/request_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// The test is background work: it closes ksets, and says what has been passed.
class DeviceAcksTest : public RequestTest {
 protected:
  void begin(CacheMode mode = CacheMode::kWritethrough, const RequestOptions& o = {}) {
    start(o);
    state_->acks().set_wake([this] { wakes_++; });
    set_mode(mode);
  }
  Read* submit(Queue& queue, uint32_t op, uint64_t off, uint64_t len, int value,
               uint32_t flags = 0) {
    auto one = std::make_unique<Read>();
    one->data = filled(len, value);
    one->request = {op, flags, off, len, one->data.data(), 1, 0, nullptr};
    one->submitted = queue.submit(&one->request);
    requests_.push_back(std::move(one));
    return requests_.back().get();
  }
  Read* submit(uint64_t off, uint64_t len, int value, uint32_t flags = 0) {
    return submit(*queue_, PCACHE_OP_WRITE, off, len, value, flags);
  }
  std::vector<pcache_request*> reap_all(Queue& queue) {
    pcache_request* done[64];
    const int n = queue.reap(done, 0, 64, 0);
    return {done, done + n};
  }
  std::vector<pcache_request*> reap_all() { return reap_all(*queue_); }
  // As a round of writeback before it writes; the ksets of the log then.
  uint64_t close() {
    EXPECT_TRUE(acks().take_arrived());
    EXPECT_TRUE(stripes_->close_open().ok());
    const uint64_t ksets = log_->mark().ksets;
    acks().mark(ksets);
    return ksets;
  }
  DeviceAcks& acks() { return state_->acks(); }
  void TearDown() override {
    queue_.reset();
    RequestTest::TearDown();
  }

  int wakes_ = 0;
  std::vector<std::unique_ptr<Read>> requests_;
};

TEST_F(DeviceAcksTest, OnlyInSomeModes) {
  for (const CacheMode mode : {CacheMode::kWriteback, CacheMode::kWriteonly}) {
    begin(mode);
    EXPECT_EQ(write(0, filled(4096, 1)), 0);
    EXPECT_EQ(write(0, filled(12 << 20, 1), PCACHE_REQ_FUA), 0);
    EXPECT_FALSE(acks().holds());
  }
  for (const CacheMode mode :
       {CacheMode::kWritethrough, CacheMode::kWritearound, CacheMode::kPassthrough}) {
    begin(mode);
    EXPECT_EQ(submit(0, 4096, 1)->submitted, 0);
    EXPECT_EQ(wakes_, 1) << "writeback";
    EXPECT_EQ(flush(), 0) << "it covers what is complete, and waits for nobody";
    EXPECT_THAT(reap_all(), IsEmpty());
    wakes_ = 0;
  }
}

// Of each kind there is: in one extent and in several, with barriers, zeros.
TEST_F(DeviceAcksTest, AWriteIsCompleteWhenItsKsetsArePassed) {
  constexpr struct {
    uint32_t op, flags;
    uint64_t len;
  } kRows[] = {{PCACHE_OP_WRITE, 0, 512},
               {PCACHE_OP_WRITE, 0, 12 << 20},
               {PCACHE_OP_WRITE, PCACHE_REQ_FUA, 4096},
               {PCACHE_OP_WRITE, PCACHE_REQ_PREFLUSH | PCACHE_REQ_FUA, 4096},
               {PCACHE_OP_DISCARD, 0, 4096},
               {PCACHE_OP_WRITE_ZEROES, 0, 8 << 20}};
  for (const auto& [op, flags, len] : kRows) {
    SCOPED_TRACE(std::to_string(op) + " " + std::to_string(flags) + " " + std::to_string(len));
    begin();
    Read* const one = submit(*queue_, op, kRangeBytes - 512, len, 4, flags);
    ASSERT_EQ(one->submitted, 0);
    EXPECT_EQ(read_sectors(kRangeBytes - 512, 512), op == PCACHE_OP_WRITE ? "4" : "0")
        << "every read sees it";
    const uint64_t ksets = close();
    acks().passed(ksets - 1);
    EXPECT_THAT(reap_all(), IsEmpty());
    EXPECT_TRUE(acks().any() && acks().holds());
    acks().passed(ksets);
    EXPECT_THAT(reap_all(), ElementsAre(&one->request));
    EXPECT_EQ(one->request.result, 0);
    EXPECT_FALSE(acks().any());
    const auto through = static_cast<size_t>(LatencyClass::kWriteThrough);
    EXPECT_EQ(queue_->counters().latency[through].count(), op == PCACHE_OP_WRITE ? 1u : 0u);
  }
}

TEST_F(DeviceAcksTest, WhoComesLaterWaitsForItsOwnKsets) {
  begin();
  Read* const first = submit(0, 512, 1);
  const uint64_t ksets = close();
  Read* const second = submit(kRangeBytes, 512, 2);
  EXPECT_TRUE(acks().has_arrived());
  acks().passed(ksets);
  EXPECT_THAT(reap_all(), ElementsAre(&first->request));
  const uint64_t more = close();
  EXPECT_FALSE(acks().has_arrived());
  Read* const third = submit(0, 512, 3);
  acks().passed(more);
  EXPECT_THAT(reap_all(), ElementsAre(&second->request));
  acks().passed(close());
  EXPECT_THAT(reap_all(), ElementsAre(&third->request));
}

// A log that was full when their ksets were to be closed.
TEST_F(DeviceAcksTest, WhoWasTakenIsTakenAgain) {
  begin();
  Read* const first = submit(0, 512, 1);
  ASSERT_TRUE(acks().take_arrived());
  EXPECT_FALSE(acks().has_arrived());
  Read* const second = submit(0, 512, 2);
  acks().passed(close());
  EXPECT_THAT(reap_all(), ElementsAre(&first->request, &second->request));
}

// Hazard superseded-not-on-device.
TEST_F(DeviceAcksTest, AChangeOfTheModeKeepsThePromise) {
  begin();
  EXPECT_TRUE(acks().holds()) << "before there is any";
  Read* const one = submit(0, 512, 1);
  set_mode(CacheMode::kWriteback);
  EXPECT_TRUE(acks().holds());
  EXPECT_EQ(write(0, filled(512, 2)), 0) << "who comes now does not wait";
  const uint64_t ksets = close();
  EXPECT_TRUE(acks().holds());
  EXPECT_THAT(reap_all(), IsEmpty());
  acks().passed(ksets);
  EXPECT_FALSE(acks().holds());
  EXPECT_THAT(reap_all(), ElementsAre(&one->request));
  set_mode(CacheMode::kPassthrough);
  EXPECT_TRUE(acks().holds());
  EXPECT_EQ(submit(0, 512, 3)->submitted, 0);
}

TEST_F(DeviceAcksTest, OneThatIsOnItsWayIntoTheLogHolds) {
  begin();
  WriteProgress progress, other;
  {
    const DeviceAcks::Entry entry(acks(), &progress);
    EXPECT_TRUE(entry.waits());
    set_mode(CacheMode::kWriteback);
    EXPECT_TRUE(acks().holds());
  }
  EXPECT_FALSE(acks().holds()) << "it found no space, or memory";
  const DeviceAcks::Entry again(acks(), &progress);
  EXPECT_TRUE(again.waits()) << "as it was promised";
  EXPECT_TRUE(acks().holds());
  const DeviceAcks::Entry later(acks(), &other);
  EXPECT_FALSE(later.waits());
}

// Submitted in a mode in which it waits for the device, and let in in another one.
TEST_F(DeviceAcksTest, AChangeWhileItWaitsForCreditKeepsThePromise) {
  begin();
  state_->pace().set(true);
  Read* const one = submit(0, 4096, 1);
  Read* const zeros = submit(*queue_, PCACHE_OP_DISCARD, 8192, 4096, 0);
  set_mode(CacheMode::kWriteback);
  Read* const later = submit(4096, 512, 2);
  state_->pace().grant(1 << 20);
  state_->deferred().run();
  EXPECT_THAT(reap_all(), ElementsAre(&later->request));
  acks().passed(close());
  EXPECT_THAT(reap_all(), ElementsAre(&one->request, &zeros->request));
}

// A FLUSH ends an epoch, and so a batch of writeback: each FUA write would be a flush of the
// device.
TEST_F(DeviceAcksTest, FuaClosesNothing) {
  begin();
  ASSERT_EQ(submit(0, 512, 1, PCACHE_REQ_FUA)->submitted, 0);
  ASSERT_EQ(submit(512, 512, 2, PCACHE_REQ_FUA)->submitted, 0);
  EXPECT_EQ(log_->mark().ksets, 0u);
  EXPECT_EQ(log_->last_epoch_from(), 0u);
  state_->data_lost(EIO);
  Read* const told = submit(1024, 512, 3, PCACHE_REQ_FUA);
  EXPECT_EQ(told->submitted, 1);
  EXPECT_EQ(told->request.result, -EIO) << "as a FLUSH would be";
  set_mode(CacheMode::kWriteback);
  ASSERT_EQ(submit(0, 512, 4, PCACHE_REQ_FUA)->submitted, 1);
  EXPECT_GT(log_->mark().ksets, 0u);
}

TEST_F(DeviceAcksTest, ADeviceThatFailsFailsAllThatWait) {
  begin();
  Read* const first = submit(0, 512, 1);
  close();
  Read* const second = submit(kRangeBytes, 512, 2);
  acks().take_arrived();
  Read* const third = submit(kRangeBytes, 512, 3);
  acks().fail(ENOSPC);
  EXPECT_THAT(reap_all(), ElementsAre(&first->request, &second->request, &third->request));
  for (const Read* failed : {first, second, third}) EXPECT_EQ(failed->request.result, -ENOSPC);
  EXPECT_EQ(read_sectors(kRangeBytes, 512), "3") << "it is in the cache all the same";
  Read* const fourth = submit(0, 512, 4);
  acks().passed(close());
  EXPECT_THAT(reap_all(), ElementsAre(&fourth->request));
  EXPECT_EQ(fourth->request.result, 0);
}

// Of a DISCARD a part is in the log, and the rest waits for writeback: that part may be it.
TEST_F(DeviceAcksTest, LostDataFailsWhoIsOnItsWay) {
  for (const CacheMode first : {CacheMode::kWriteback, CacheMode::kWritethrough}) {
    begin(first, {.logical_bytes = 256 << 20});
    Read* const on_its_way = submit(*queue_, PCACHE_OP_DISCARD, 0, 200 << 20, 0);
    ASSERT_EQ(on_its_way->submitted, 0);
    ASSERT_EQ(state_->deferred().count(), 1u);
    EXPECT_GT(zeros_->bytes(), 0u) << "a part is in the log";
    set_mode(CacheMode::kWritethrough);
    Read* const waits = submit(0, 512, 1);
    acks().data_lost();
    EXPECT_THAT(reap_all(), ElementsAre(&waits->request));
    EXPECT_EQ(waits->request.result, -EIO);
    zeros_->give_back(zeros_->bytes());
    state_->deferred().run();
    EXPECT_THAT(reap_all(), ElementsAre(&on_its_way->request));
    EXPECT_EQ(on_its_way->request.result, -EIO);
    Read* const later = submit(0, 512, 2);
    acks().passed(close());
    EXPECT_THAT(reap_all(), ElementsAre(&later->request));
    EXPECT_EQ(later->request.result, 0);
  }
}

TEST_F(DeviceAcksTest, AQueueThatIsDestroyedGivesUpItsOwn) {
  begin();
  auto other = make_queue();
  Read* const first = submit(0, 512, 1);
  Read* const others = submit(*other, PCACHE_OP_WRITE, 0, 512, 2);
  const uint64_t ksets = close();
  Read* const second = submit(*other, PCACHE_OP_WRITE, 0, 512, 3);
  EXPECT_EQ(other->cancel(), 0u) << "they do not wait for space";
  other.reset();
  EXPECT_EQ(others->request.result, -ECANCELED);
  EXPECT_EQ(second->request.result, -ECANCELED);
  EXPECT_FALSE(acks().has_arrived());
  EXPECT_EQ(acks().count(), 1u);
  acks().passed(ksets);
  EXPECT_THAT(reap_all(), ElementsAre(&first->request));
  EXPECT_FALSE(acks().any());
}

// What waits for space goes on from there.
TEST_F(DeviceAcksTest, AWriteThatWaitedForCreditWaitsForTheDeviceThen) {
  begin();
  state_->pace().set(true);
  Read* const one = submit(0, 4096, 1);
  Read* const zeros = submit(*queue_, PCACHE_OP_DISCARD, 8192, 4096, 0);
  EXPECT_EQ(state_->deferred().count(), 2u);
  EXPECT_EQ(wakes_, 0);
  state_->pace().grant(1 << 20);
  state_->deferred().run();
  EXPECT_EQ(state_->deferred().count(), 0u);
  EXPECT_EQ(acks().count(), 2u);
  EXPECT_THAT(reap_all(), IsEmpty());
  acks().passed(close());
  EXPECT_THAT(reap_all(), ElementsAre(&one->request, &zeros->request));
  EXPECT_EQ(queue_->in_flight(), 0u);
}

TEST_F(DeviceAcksTest, ALogThatHasFailedFailsThem) {
  begin();
  image_->memory().make_bad(table_->media(log_->head()));
  Read* const one = submit(0, 512, 1);
  ASSERT_EQ(one->submitted, 0);
  ASSERT_TRUE(acks().take_arrived());
  EXPECT_FALSE(stripes_->close_open().ok());
  ASSERT_TRUE(log_->failed());
  acks().fail(EIO);
  EXPECT_THAT(reap_all(), ElementsAre(&one->request));
  EXPECT_EQ(submit(0, 512, 2)->request.result, -EIO);
}

TEST_F(DeviceAcksTest, AFullQueueTakesNone) {
  begin();
  queue_ = make_queue(2);
  EXPECT_EQ(submit(0, 512, 1)->submitted, 0);
  EXPECT_EQ(submit(0, 512, 2)->submitted, 0);
  EXPECT_EQ(submit(0, 512, 3)->submitted, -EAGAIN);
  acks().passed(close());
  EXPECT_EQ(reap_all().size(), 2u);
  EXPECT_EQ(read_sectors(0, 512), "2");
}

TEST_F(DeviceAcksTest, MissesAreCachedAsTheModeSays) {
  for (const CacheMode mode :
       {CacheMode::kWriteback, CacheMode::kWritethrough, CacheMode::kWritearound,
        CacheMode::kWriteonly, CacheMode::kPassthrough}) {
    begin(mode);
    EXPECT_EQ(read_sectors(0, 512), "d");
    EXPECT_EQ(mapped(0, 512), answers_of(mode).fills ? "C" : ".") << answers_of(mode).name;
  }
}

}  // namespace
}  // namespace pcache
