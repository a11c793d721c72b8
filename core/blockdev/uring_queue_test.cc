// SPDX-License-Identifier: GPL-2.0-or-later
// Uses a pipe: a read completes when the test writes to it, and not before.
#include "blockdev/uring_queue.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>

namespace pcache {
namespace {

class UringQueueTest : public testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    file_.fd = UniqueFd(fds[0]);
    feed_ = UniqueFd(fds[1]);
    file_.size_bytes = 1u << 20;
    constexpr int64_t kHourNs = 3600 * 1'000'000'000ll;
    auto queue = UringQueue::open(file_, 4, &io_uring_queue_init_params, kHourNs);
    ASSERT_TRUE(queue.ok()) << queue.error().text;
    queue_ = queue.take();
    io_.len = 1024;
    io_.buf = buffer_;
    io_.done = [](BlockIo* io) { static_cast<std::atomic<bool>*>(io->ctx)->store(true); };
    io_.ctx = &done_;
  }

  void feed(uint32_t len) {
    char data[1024];
    memset(data, 'x', sizeof data);
    ASSERT_EQ(write(feed_.get(), data, len), static_cast<ssize_t>(len));
  }
  void finish() {
    while (!done_.load()) queue_->wait(-1);
    EXPECT_EQ(io_.result, 0);
    EXPECT_EQ(buffer_[1023], 'x');
  }

  BackingFile file_;
  UniqueFd feed_;
  std::unique_ptr<BlockQueue> queue_;
  alignas(512) char buffer_[1024] = {};
  BlockIo io_;
  std::atomic<bool> done_{false};
};

TEST_F(UringQueueTest, WaitTimesOutWhileTheDeviceIsBusy) {
  queue_->submit(&io_);
  EXPECT_EQ(queue_->wait(0), 0u);
  EXPECT_EQ(queue_->wait(3'000'000), 0u);
  EXPECT_EQ(queue_->in_flight(), 1u);
  feed(1024);
  finish();
}

TEST_F(UringQueueTest, ShortReadGoesOn) {
  queue_->submit(&io_);
  feed(512);
  EXPECT_EQ(queue_->wait(3'000'000), 0u);
  EXPECT_EQ(queue_->in_flight(), 1u);
  feed(512);
  finish();
}

// When a thread ends the kernel cancels what it has pushed.
TEST_F(UringQueueTest, SurvivesTheExitOfTheThreadThatPushed) {
  std::thread([&] {
    queue_->submit(&io_);
    queue_->kick();
  }).join();
  EXPECT_EQ(queue_->wait(3'000'000), 0u);
  EXPECT_EQ(queue_->in_flight(), 1u);
  feed(1024);
  finish();
}

// Makes a ring as liburing does from 2.6 on: without the array of entries, if the kernel needs
// none, and without the masks that it calls deprecated. (It calls the numbers of entries so, too,
// and reads them itself when it puts a ring away.)
int bare_ring(unsigned entries, io_uring* ring, io_uring_params* params) {
  const int rc = io_uring_queue_init_params(entries, ring, params);
  if (rc < 0) return rc;
  ring->sq.array = nullptr;
  ring->sq.kring_mask = ring->cq.kring_mask = nullptr;
  return rc;
}

TEST_F(UringQueueTest, KnowsNothingOfTheInsidesOfARing) {
  auto queue = UringQueue::open(file_, 1, &bare_ring);
  ASSERT_TRUE(queue.ok()) << queue.error().text;
  BlockIo flush;
  flush.op = BlockOp::kFlush;  // behind the read, as one runs at a time
  std::atomic<bool> flushed{false};
  flush.done = io_.done;
  flush.ctx = &flushed;
  queue.value()->submit(&io_);
  queue.value()->submit(&flush);
  queue.value()->kick();
  EXPECT_EQ(queue.value()->poll(), 0u);
  EXPECT_EQ(queue.value()->wait(1'000'000), 0u);
  feed(1024);
  while (!flushed.load()) queue.value()->wait(-1);
  EXPECT_TRUE(done_.load());
  EXPECT_EQ(buffer_[1023], 'x');
}

// A thread that goes to sleep must have pushed what was prepared, or nothing would wake it.
TEST_F(UringQueueTest, WaitPushesWhatWasSubmitted) {
  queue_->submit(&io_);
  feed(1024);
  EXPECT_EQ(queue_->wait(-1), 1u);
  EXPECT_TRUE(done_.load());
}

// Whether the thread sleeps in the kernel.
bool asleep(pid_t thread) {
  std::ifstream stat("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string line;
  std::getline(stat, line);
  const size_t name_end = line.rfind(')');
  return name_end != std::string::npos && line.compare(name_end, 3, ") S") == 0;
}

// The completion that could have woken the owner is reaped, and its `done` has not returned, when
// the owner falls asleep: only the wake can end its sleep.
TEST_F(UringQueueTest, WaiterAsleepIsWokenByTheThreadThatRanDone) {
  struct Held {
    std::binary_semaphore entered{0};
    pid_t owner = gettid();
    bool finished = false;
  } held;
  io_.ctx = &held;
  io_.done = [](BlockIo* io) {
    auto* held = static_cast<Held*>(io->ctx);
    held->entered.release();
    while (!asleep(held->owner)) std::this_thread::yield();
    held->finished = true;
  };
  queue_->submit(&io_);
  feed(1024);
  std::thread helper([&] {
    while (queue_->poll() == 0) std::this_thread::yield();
  });
  while (!held.entered.try_acquire()) std::this_thread::yield();
  EXPECT_EQ(queue_->wait(-1), 0u);
  EXPECT_EQ(queue_->in_flight(), 0u);
  EXPECT_TRUE(held.finished);
  helper.join();
}

// Two threads besides the owner poll, so that they also reap its wakes.
TEST_F(UringQueueTest, NoWakeIsLostToOtherPollers) {
  std::atomic<bool> stop{false};
  auto poll_on = [&] {
    while (!stop.load()) queue_->poll();
  };
  std::thread one(poll_on), two(poll_on);
  BlockIo flush;  // of a pipe: fails at once, which is a completion too
  flush.op = BlockOp::kFlush;
  flush.done = io_.done;
  flush.ctx = &done_;
  for (int round = 0; round < 5000; round++) {
    done_ = false;
    queue_->submit(&flush);
    while (!done_.load()) queue_->wait(-1);
  }
  stop = true;
  one.join();
  two.join();
  EXPECT_EQ(flush.result, EINVAL);
}

}  // namespace
}  // namespace pcache
