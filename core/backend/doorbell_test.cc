// SPDX-License-Identifier: GPL-2.0-or-later
// What a front and a backend tell each other by the doorbell, with their clocks at a stand, or set
// to look an hour later: what nobody is rung for never happens here.
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "backend/loop.h"
#include "backend/two_sides_for_test.h"
#include "blockdev/unique_fd.h"

namespace pcache {
namespace {

using Side = Doorbell::Side;
using Doing = BackendLoop::Doing;

class TwoSidesBellTest : public TwoSidesTest {
 protected:
  TwoSidesBellTest() : file_(memfd_create("bell", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(file_.get(), Doorbell::kPageBytes), 0);
    EXPECT_TRUE(bell_.connect(file_.get()).ok());
  }
  void start_front_with_bell() {
    start_front();
    ASSERT_TRUE(cache_->doorbell()->connect(file_.get()).ok());
  }
  const UniqueFd file_;
  Doorbell bell_{Side::kBackend};
};

// Nothing is wanted until there is time, as role=both has it; then all of it is.
TEST_F(TwoSidesBellTest, TheFrontWantsWhatIsLeftWhenThereIsTime) {
  start_front_with_bell();
  start_backend();
  bell_.listen();
  executor_->advance(milliseconds(20000));
  EXPECT_FALSE(bell_.wanted());  // there is nothing
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  executor_->advance(milliseconds(1));
  EXPECT_FALSE(bell_.wanted());
  EXPECT_EQ(cache_->doorbell()->rings(), 0u);
  executor_->advance(milliseconds(10000));
  EXPECT_TRUE(bell_.wanted());
  EXPECT_GT(cache_->doorbell()->rings(), 0u);
  write_back();
  bell_.ring();
  EXPECT_EQ(bell_.rings(), 1u);
  cache_->rung();
  executor_->advance(milliseconds(0));
  EXPECT_EQ(cache_->dirty().live_bytes, 0u);
  EXPECT_FALSE(bell_.wanted());
  bell_.ring();  // the front does not listen any more
  EXPECT_EQ(bell_.rings(), 1u);
}

// The clock of the front stands still.
TEST_F(TwoSidesBellTest, AWriteThatWaitsForSpaceRingsAndIsRung) {
  start_front_with_bell();
  start_backend();
  bell_.listen();
  constexpr uint64_t kPiece = 1 << 20;
  int waited = 0;
  for (uint64_t at = 0; at < media::kMinDeviceBytes + kLogicalBytes; at += kPiece) {
    Bytes data(kPiece, std::byte{3});
    pcache_request request{PCACHE_OP_WRITE, 0, at % kLogicalBytes, kPiece, data.data(), 0, 0,
                           nullptr};
    if (queue_->submit(&request) == 1) {
      ASSERT_EQ(request.result, 0);
      continue;
    }
    waited++;
    pcache_request* done[1];
    for (int i = 0; i < 1000 && queue_->reap(done, 0, 1, 0) == 0; i++) {
      const uint64_t rung = cache_->doorbell()->rings();
      executor_->advance(milliseconds(0));
      if (queue_->reap(done, 0, 1, 0) == 1) break;
      ASSERT_GT(cache_->doorbell()->rings(), rung);
      const auto moved = backend_->step();
      ASSERT_TRUE(moved.ok());
      if (!Backend::has_moved(moved.value())) continue;
      const uint64_t before = bell_.rings();
      bell_.ring();
      ASSERT_GT(bell_.rings(), before) << "the front does not listen";
      cache_->rung();
    }
    ASSERT_EQ(request.result, 0);
  }
  EXPECT_GT(waited, 0);
  EXPECT_GT(cache_->doorbell()->rings(), 0u);
}

class BackendLoopTest : public TwoSidesBellTest {
 protected:
  void start_loop() {
    BackendLoop::Options options;
    options.interval = options.front_looks = std::chrono::hours(1);
    options.front_is_there = [this] { return front_is_there_.load(); };
    options.beats = [this] { bell_.beat(milliseconds(++beats_)); };
    options.say = [this](const std::string& line) { said_.push_back(line); };
    loop_ = std::make_unique<BackendLoop>(*backend_, bell_, options);
    thread_ = std::thread([this] { done_ = loop_->run(); });
  }
  void TearDown() override {
    if (loop_) loop_->stop();
    if (thread_.joinable()) thread_.join();
    EXPECT_TRUE(done_.ok());
  }
  // While the front is heard.
  void wait_until(const std::function<bool(const BackendLoop::State&)>& so) {
    for (uint64_t n = 1; !so(loop_->state()); n++) {
      front_bell_.beat(milliseconds(n));
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  bool has_written() const { return loop_->state().counters.ksets > 0; }

  // The log has data that the front has moved on, and says so.
  void pass_over() {
    ASSERT_EQ(write(0, 4096, 1), 0);
    executor_->advance(milliseconds(2000));
    ASSERT_TRUE(cache_->move_step().ok());
    ASSERT_EQ(write(8192, 4096, 2), 0);
    executor_->advance(milliseconds(2000));
  }

  // Not the cache's, whose thread this one would be.
  Doorbell front_bell_{Side::kFront};
  std::atomic<bool> front_is_there_{true};
  std::atomic<int> beats_{0};
  std::vector<std::string> said_;  // by run()'s thread
  std::unique_ptr<BackendLoop> loop_;
  Status done_;
  std::thread thread_;
};

TEST_F(BackendLoopTest, ItWritesBackWhenItIsRung) {
  start_front();
  start_backend();
  ASSERT_TRUE(front_bell_.connect(file_.get()).ok());
  start_loop();
  wait_until([](const auto& state) { return state.doing == Doing::kNotWanted; });
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  EXPECT_FALSE(has_written());
  const uint32_t heard = front_bell_.listen();
  front_bell_.want(true);
  EXPECT_TRUE(front_bell_.wait(heard, std::chrono::hours(1)));
  wait_until([](const auto& state) { return state.counters.ksets > 0; });
  EXPECT_EQ(on_disk(0, 4096), 1);
}

// It has ended, and said so; or its lock is gone, and nobody has said anything; or it hangs.
TEST_F(BackendLoopTest, ItWritesBackAllWhenTheFrontHasGone) {
  enum { kSaysSo = 1, kIsKilled, kHangs };
  for (const int how : {kSaysSo, kIsKilled, kHangs}) {
    start_front();
    start_backend();
    ASSERT_TRUE(front_bell_.connect(file_.get()).ok());
    front_is_there_ = true;
    start_loop();
    wait_until([](const auto& state) { return state.doing == Doing::kNotWanted; });
    ASSERT_EQ(write(0, 4096, how), 0);
    ASSERT_EQ(flush(), 0);
    if (how == kSaysSo) front_bell_.leave();
    if (how == kIsKilled) front_is_there_ = false;
    while (!has_written()) std::this_thread::sleep_for(milliseconds(1));
    EXPECT_EQ(on_disk(0, 4096), how);
    loop_->stop();
    thread_.join();
    loop_.reset();
    backend_.reset();
    detach();
  }
}

// What it wanted until then would be written while it moves on, and again the next time.
TEST_F(BackendLoopTest, TheFrontLooksAtWhatWasPassedBeforeMoreIsWritten) {
  start_front();
  start_backend();
  ASSERT_TRUE(front_bell_.connect(file_.get()).ok());
  start_loop();
  wait_until([](const auto& state) { return state.doing == Doing::kNotWanted; });
  pass_over();
  const uint32_t heard = front_bell_.listen();
  front_bell_.want(true);
  EXPECT_TRUE(front_bell_.wait(heard, std::chrono::hours(1)));
  EXPECT_GT(loop_->state().counters.passed_ksets, 0u);
  std::this_thread::yield();  // else it writes now
  front_bell_.want(false);
  front_bell_.ring();
  loop_->stop();
  thread_.join();
  EXPECT_EQ(backend_->counters().written_bytes, 0u);
}

// The disk was not asked, so nothing goes on, and it is not asked sooner for it.
TEST_F(BackendLoopTest, WhileTheDiskFailsWhatIsNotNeededIsPassed) {
  start_front();
  start_backend();
  ASSERT_TRUE(front_bell_.connect(file_.get()).ok());
  disk_.set_error(EIO);
  start_loop();
  wait_until([](const auto& state) { return state.doing == Doing::kNotWanted; });
  ASSERT_EQ(write(kRangeBytes, 4096, 3), 0);
  executor_->advance(milliseconds(2000));
  front_bell_.want(true);
  wait_until([](const auto& state) { return state.doing == Doing::kRetrying; });
  pass_over();
  front_bell_.ring();
  wait_until([](const auto& state) { return state.counters.passed_ksets > 0; });
  EXPECT_EQ(loop_->state().doing, Doing::kRetrying);
  loop_->stop();
  thread_.join();
  EXPECT_EQ(said_.size(), 1u);
}

// Whatever the front says; it is told while nothing is wanted.
TEST_F(BackendLoopTest, ItFinishesWithAllThatTheLogHas) {
  start_front();
  start_backend();
  ASSERT_TRUE(front_bell_.connect(file_.get()).ok());
  start_loop();
  wait_until([](const auto& state) { return state.doing == Doing::kNotWanted; });
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  loop_->finish();
  thread_.join();
  EXPECT_TRUE(done_.ok());
  EXPECT_EQ(on_disk(0, 4096), 1);
}

// It does not try again for ever: it is told while it waits to.
TEST_F(BackendLoopTest, ItFinishesWithADiskThatFails) {
  start_front();
  start_backend();
  disk_.set_error(EIO);
  start_loop();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  while (loop_->state().doing != Doing::kRetrying) std::this_thread::sleep_for(milliseconds(1));
  loop_->finish();
  thread_.join();
  EXPECT_FALSE(done_.ok());
  EXPECT_EQ(done_.error().code, EIO);
  done_ = {};
}

TEST_F(BackendLoopTest, AFrontThatIsNotHeardIsNotWaitedFor) {
  start_front();
  start_backend();
  start_loop();
  ASSERT_EQ(write(0, 4096, 1), 0);
  ASSERT_EQ(flush(), 0);
  while (!has_written()) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(on_disk(0, 4096), 1);
}

}  // namespace
}  // namespace pcache
