// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/ready_fd.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/epoll.h>

#include <atomic>
#include <thread>

#include "request/request_for_test.h"

namespace pcache {
namespace {

class ReadyFdTest : public RequestTest {
 protected:
  static bool readable(int fd, int timeout_ms = 0) {
    pollfd one{fd, POLLIN, 0};
    return poll(&one, 1, timeout_ms) == 1;
  }
  // As an event loop does it: never waits but for the descriptor. How many came out.
  static int serve(Queue& queue, int fd, int expected) {
    int n = 0;
    while (n < expected && readable(fd, 60'000)) n += reap(queue);
    return n;
  }
};

TEST_F(ReadyFdTest, IsMadeOnce) {
  start();
  const int fd = queue_->ready_fd().take();
  EXPECT_EQ(queue_->ready_fd().take(), fd);
  EXPECT_FALSE(readable(fd));
}

TEST_F(ReadyFdTest, WhatCompletesAtOnceDoesNotShow) {
  start();
  const int fd = queue_->ready_fd().take();
  EXPECT_EQ(write(0, filled(4096, 1)), 0);
  EXPECT_EQ(flush(), 0);
  EXPECT_EQ(read_sectors(0, 4096), "11111111");
  EXPECT_FALSE(readable(fd));
}

TEST_F(ReadyFdTest, AMissShowsUntilItIsReaped) {
  start();
  device_->hold();
  const int fd = queue_->ready_fd().take();
  const auto one = submit_read(0, 4096), two = submit_read(65536, 4096);
  EXPECT_FALSE(readable(fd));
  device_->release_all();
  EXPECT_TRUE(readable(fd));
  pcache_request* done[1];
  EXPECT_EQ(queue_->reap(done, 0, 1, 0), 1);
  EXPECT_TRUE(readable(fd)) << "one more is to be had";
  EXPECT_EQ(queue_->reap(done, 0, 1, 0), 1);
  EXPECT_EQ(queue_->in_flight(), 0u);
  EXPECT_FALSE(readable(fd));
}

TEST_F(ReadyFdTest, WhatHasCompletedBeforeItIsMadeShows) {
  start();
  device_->hold();
  const auto one = submit_read(0, 4096);
  device_->release_all();
  set_.poll_all();  // somebody else's poll: it is in the queue's list now
  const int fd = queue_->ready_fd().take();
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(reap(*queue_), 1);
  EXPECT_FALSE(readable(fd));
}

TEST_F(ReadyFdTest, WhatAnotherThreadHasPolledShows) {
  start();
  device_->hold();
  const int fd = queue_->ready_fd().take();
  const auto one = submit_read(0, 4096);
  device_->release_all();
  std::thread([&] { set_.poll_all(); }).join();
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(reap(*queue_), 1);
  EXPECT_FALSE(readable(fd));
}

TEST_F(ReadyFdTest, AnErrorShows) {
  start();
  device_->set_error(EIO);
  const int fd = queue_->ready_fd().take();
  const auto one = submit_read(0, 4096);
  EXPECT_EQ(serve(*queue_, fd, 1), 1);
  EXPECT_EQ(one->request.result, -EIO);
  EXPECT_FALSE(readable(fd));
}

// Nothing would bring an event loop back to push it.
TEST_F(ReadyFdTest, WhatTheKernelHasNotTakenShowsUntilItHas) {
  start();
  device_->hold();
  const int fd = queue_->ready_fd().take();
  device_->set_takes_requests(false);
  const auto one = submit_read(0, 4096);
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(reap(*queue_), 0);
  EXPECT_TRUE(readable(fd)) << "it has to be tried again";
  device_->set_takes_requests(true);
  EXPECT_EQ(reap(*queue_), 0);
  EXPECT_FALSE(readable(fd));
  device_->release_all();
  EXPECT_EQ(serve(*queue_, fd, 1), 1);
}

// The kernel refuses a circle of epolls, as it may refuse for want of memory.
TEST_F(ReadyFdTest, RingsThatCannotBeWatchedArePolled) {
  start();
  device_->hold();
  const auto other = make_queue();
  const auto owner = submit_read(*other, 0, 8192);
  const int fd = queue_->ready_fd().take();
  epoll_event event{};
  ASSERT_EQ(epoll_ctl(set_.fd(), EPOLL_CTL_ADD, fd, &event), 0);
  const auto joined = submit_read(4096, 4096);
  ASSERT_EQ(joined->submitted, 0);
  EXPECT_TRUE(readable(fd));
  device_->release_all();
  EXPECT_EQ(serve(*queue_, fd, 1), 1) << "though nobody serves the other queue";
  ASSERT_EQ(epoll_ctl(set_.fd(), EPOLL_CTL_DEL, fd, nullptr), 0);
  EXPECT_EQ(reap(*queue_), 0);
  EXPECT_FALSE(readable(fd));
  EXPECT_EQ(reap(*other), 1);
}

TEST_F(ReadyFdTest, AReadThatHasJoinedAnIdleQueuesFill) {
  start();
  device_->hold();
  const auto other = make_queue();
  const auto owner = submit_read(*other, 0, 8192);
  const int fd = queue_->ready_fd().take();
  const auto joined = submit_read(4096, 4096);
  ASSERT_EQ(joined->submitted, 0);
  EXPECT_FALSE(readable(fd));
  device_->release_all();
  EXPECT_EQ(serve(*queue_, fd, 1), 1);
  EXPECT_EQ(sectors(4096, joined->data), "dddddddd");
  // What goes on in other queues is none of its business any more.
  device_->hold();
  const auto later = submit_read(*other, 1 << 20, 4096);
  device_->release_all();
  EXPECT_FALSE(readable(fd));
  EXPECT_EQ(reap(*other), 2);
}

// Its fills come back through somebody else's poll, and none of its requests has ended by that.
TEST_F(ReadyFdTest, AParkedReadThatCanGoOn) {
  start();
  for (uint64_t off = 0; off < 1 << 20; off += 1024) ASSERT_EQ(write(off, filled(512, 1)), 0);
  const auto small = make_queue(4);
  const int fd = small->ready_fd().take();
  device_->hold();
  const auto parked = submit_read(*small, 0, 1 << 20);
  ASSERT_EQ(small->parked(), 1u);
  device_->release_all();
  int rounds = 0, n = 0;
  for (; n == 0 && rounds < 1000; rounds++) {
    set_.poll_all();
    ASSERT_TRUE(readable(fd)) << "in round " << rounds;
    n = reap(*small);
  }
  EXPECT_EQ(n, 1);
  EXPECT_GT(rounds, 2);
  EXPECT_FALSE(readable(fd));
}

// The rings of all queues are watched from a read on that begins while another one is submitted.
TEST_F(ReadyFdTest, AParkedReadThatJoinsWhileAHitIsSubmitted) {
  start();
  for (uint64_t off = 0; off < 1 << 20; off += 1024) ASSERT_EQ(write(off, filled(512, 1)), 0);
  const auto other = make_queue(), small = make_queue(4);
  const int fd = small->ready_fd().take();
  device_->hold();
  // The last gap of the parked read is another queue's.
  const auto owner = submit_read(*other, (1 << 20) - 512, 512);
  const auto parked = submit_read(*small, (1 << 20) - 66 * 1024, 66 * 1024);
  ASSERT_EQ(small->parked(), 1u);
  for (size_t i = device_->held(); i-- > 1;) device_->release(i);  // but the owner's
  set_.poll_all();
  const auto hit = submit_read(*small, 0, 512);
  ASSERT_EQ(hit->submitted, 1);
  ASSERT_EQ(small->parked(), 0u);
  reap(*small);
  device_->release_all();
  EXPECT_EQ(serve(*small, fd, 1), 1);
  EXPECT_EQ(reap(*other), 1);
}

TEST_F(ReadyFdTest, AWriteThatWaitedForSpaceOrWasGivenUp) {
  RequestOptions options;
  options.segments = 3;  // log, one for data, one in reserve
  start(options);
  std::vector<std::unique_ptr<Read>> writes;
  const auto write_one = [&] {
    auto one = std::make_unique<Read>();
    one->data = filled(1 << 20, 1);
    one->request = {PCACHE_OP_WRITE, 0, 0, 1 << 20, one->data.data(), 1, 0, nullptr};
    one->submitted = queue_->submit(&one->request);
    writes.push_back(std::move(one));
    return writes.back()->submitted;
  };
  while (write_one() == 1) {
  }
  ASSERT_EQ(write_one(), 0);
  const int fd = queue_->ready_fd().take();
  EXPECT_FALSE(readable(fd));
  std::thread([&] { EXPECT_EQ(queue_->cancel(), 2u); }).join();
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(reap(*queue_), 2);
  EXPECT_EQ(writes.back()->request.result, -ECANCELED);
  EXPECT_FALSE(readable(fd));
}

// Each completion is seen, whoever brings it and however it falls together with reaping.
TEST_F(ReadyFdTest, NoWakeupIsLostAmongThreads) {
  start();
  image_->memory().set_recording(false);
  std::atomic<bool> over{false};
  std::thread helper([&] {
    while (!over.load()) set_.poll_all();
  });
  const int fd = queue_->ready_fd().take();
  for (uint64_t round = 0; round < 3000; round++) {
    const uint64_t off = round % 1000 * 16384;
    const auto one = submit_read(off, 4096), two = submit_read(off + 8192, 4096);
    const int queued = (one->submitted == 0) + (two->submitted == 0);
    ASSERT_EQ(serve(*queue_, fd, queued), queued) << "in round " << round;
    ASSERT_FALSE(readable(fd)) << "in round " << round;
    if (round % 1000 == 999)
      for (uint64_t at = 0; at < 16 << 20; at += 4096)
        if (mapped(at, 4096)[0] == 'C') forget({at, 4096});
  }
  over.store(true);
  helper.join();
}

}  // namespace
}  // namespace pcache
