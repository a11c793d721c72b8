// SPDX-License-Identifier: GPL-2.0-or-later
// What every BlockQueue promises, for each way to do I/O.
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <random>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "blockdev/block_device.h"
#include "blockdev/nbd_server_for_test.h"
#include "blockdev/temp_file_for_test.h"

namespace pcache {
namespace {

constexpr uint32_t kBlock = 4096;
constexpr uint64_t kFileBytes = 8u << 20;

struct AlignedFree {
  void operator()(char* p) const { free(p); }
};
using Buffer = std::unique_ptr<char, AlignedFree>;
Buffer make_buffer(size_t len) {
  return Buffer(static_cast<char*>(std::aligned_alloc(kBlock, (len + 2 * kBlock - 1) & -kBlock)));
}

void count_done(BlockIo* io) { static_cast<std::atomic<unsigned>*>(io->ctx)->fetch_add(1); }

char pattern(uint64_t off) { return static_cast<char>(off * 2654435761u >> 13 ^ off / kBlock * 7); }

enum class Way {
  kUring,
  kThreads,
  kNbd,        // a connection for each queue
  kNbdShared,  // one for all
};

class BlockQueueTest : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    BlockDeviceOptions options;
    options.path = file_.path();
    switch (GetParam()) {
      case Way::kUring:
        options.io_mode = IoMode::kUring;
        return open_device(options, "io_uring");
      case Way::kThreads:
        options.io_mode = IoMode::kThreads;
        return open_device(options, "threads");
      case Way::kNbdShared:
        server_.start({"--filter=multi-conn", "file", file_.path(), "multi-conn-mode=disable"});
        break;
      case Way::kNbd:
        server_.start({"file", file_.path()});
    }
    options.path = server_.uri();
    open_device(options, "nbd");
  }

  void open_device(const BlockDeviceOptions& options, const char* io_mode) {
    auto device = open_block_device(options, Log());
    ASSERT_TRUE(device.ok()) << device.error().text;
    device_ = device.take();
    EXPECT_STREQ(device_->io_mode_name(), io_mode);
  }

  std::unique_ptr<BlockQueue> open_queue(unsigned depth) {
    auto queue = device_->open_queue(depth);
    EXPECT_TRUE(queue.ok()) << queue.error().text;
    return queue.take();
  }

  BlockIo make_io(BlockOp op, uint64_t off, uint32_t len, void* buf) {
    BlockIo io;
    io.op = op;
    io.off = off;
    io.len = len;
    io.buf = buf;
    io.done = count_done;
    io.ctx = &done_;
    return io;
  }

  void finish_all(BlockQueue& queue) {
    while (queue.in_flight() > 0) queue.wait(-1);
  }

  int run(BlockQueue& queue, BlockIo io) {
    queue.submit(&io);
    finish_all(queue);
    return io.result;
  }

  TempFile file_{kFileBytes};
  NbdServerForTest server_;
  std::unique_ptr<BlockDevice> device_;
  std::atomic<unsigned> done_{0};
};

TEST_P(BlockQueueTest, WritesInRandomOrderReadBack) {
  auto queue = open_queue(64);
  const unsigned count = kFileBytes / kBlock;  // many times the depth
  Buffer data = make_buffer(kFileBytes);
  for (uint64_t i = 0; i < kFileBytes; i++) data.get()[i] = pattern(i);
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  std::vector<BlockIo> ios(count);
  for (unsigned i = 0; i < count; i++) {
    const uint64_t off = uint64_t{order[i]} * kBlock;
    ios[i] = make_io(BlockOp::kWrite, off, kBlock, data.get() + off);
    queue->submit(&ios[i]);
  }
  EXPECT_EQ(queue->in_flight(), count);
  finish_all(*queue);
  EXPECT_EQ(done_.load(), count);
  for (const BlockIo& io : ios) ASSERT_EQ(io.result, 0);
  EXPECT_EQ(run(*queue, make_io(BlockOp::kFlush, 0, 0, nullptr)), 0);

  Buffer back = make_buffer(kFileBytes);
  std::shuffle(order.begin(), order.end(), std::mt19937(2));
  for (unsigned i = 0; i < count; i++) {
    const uint64_t off = uint64_t{order[i]} * kBlock;
    ios[i] = make_io(BlockOp::kRead, off, kBlock, back.get() + off);
    queue->submit(&ios[i]);
  }
  while (queue->in_flight() > 0)
    if (queue->poll() == 0) queue->wait(-1);
  for (const BlockIo& io : ios) ASSERT_EQ(io.result, 0);
  EXPECT_EQ(memcmp(back.get(), data.get(), kFileBytes), 0);
}

TEST_P(BlockQueueTest, UnalignedBuffersAreBounced) {
  auto queue = open_queue(4);
  constexpr unsigned kCount = 32;
  constexpr uint32_t kLen = 8192;
  std::vector<char> out(kCount * (kLen + 1)), in(kCount * (kLen + 3));
  std::vector<BlockIo> ios(kCount);
  for (unsigned i = 0; i < kCount; i++) {
    char* buf = &out[i * (kLen + 1)];
    for (uint32_t k = 0; k < kLen; k++) buf[k] = pattern(i * uint64_t{kLen} + k);
    ios[i] = make_io(BlockOp::kWrite, i * uint64_t{kLen}, kLen, buf);
    queue->submit(&ios[i]);
  }
  finish_all(*queue);
  for (unsigned i = 0; i < kCount; i++) {
    ASSERT_EQ(ios[i].result, 0);
    ios[i] = make_io(BlockOp::kRead, i * uint64_t{kLen}, kLen, &in[i * (kLen + 3) + 1]);
    queue->submit(&ios[i]);
  }
  finish_all(*queue);
  for (unsigned i = 0; i < kCount; i++) {
    ASSERT_EQ(ios[i].result, 0);
    ASSERT_EQ(memcmp(&in[i * (kLen + 3) + 1], &out[i * (kLen + 1)], kLen), 0) << i;
  }
}

TEST_P(BlockQueueTest, BacklogBeyondDepthStartsInOrder) {
  auto queue = open_queue(1);
  struct Numbered {
    BlockIo io;
    unsigned number;
    std::vector<unsigned>* seen;
  };
  std::vector<Numbered> requests(50);
  std::vector<unsigned> seen, expected(50);
  std::iota(expected.begin(), expected.end(), 0);
  Buffer buffer = make_buffer(kBlock);
  for (unsigned i = 0; i < requests.size(); i++) {
    requests[i] = {make_io(BlockOp::kRead, 0, kBlock, buffer.get()), i, &seen};
    requests[i].io.ctx = &requests[i];
    requests[i].io.done = [](BlockIo* io) {
      auto* self = static_cast<Numbered*>(io->ctx);
      self->seen->push_back(self->number);
    };
    queue->submit(&requests[i].io);
  }
  finish_all(*queue);
  EXPECT_EQ(seen, expected);
}

TEST_P(BlockQueueTest, DoneMaySubmitAgain) {
  auto queue = open_queue(2);
  struct Chain {
    BlockQueue* queue;
    unsigned left;
  } chain{queue.get(), 100};
  Buffer buffer = make_buffer(kBlock);
  BlockIo io = make_io(BlockOp::kRead, 0, kBlock, buffer.get());
  io.ctx = &chain;
  io.done = [](BlockIo* io) {
    auto* chain = static_cast<Chain*>(io->ctx);
    EXPECT_EQ(io->result, 0);
    if (--chain->left > 0) chain->queue->submit(io);
  };
  queue->submit(&io);
  finish_all(*queue);
  EXPECT_EQ(chain.left, 0u);
}

TEST_P(BlockQueueTest, ReadOfWhatWasTruncatedAwayIsEio) {
  auto queue = open_queue(4);
  Buffer buffer = make_buffer(4 * kBlock);
  file_.resize(kFileBytes / 2);
  EXPECT_EQ(run(*queue, make_io(BlockOp::kRead, kFileBytes - kBlock, kBlock, buffer.get())), EIO);
  // Transfers that end short at the new end, first between blocks, then inside a block.
  const uint64_t across = kFileBytes / 2 - kBlock;
  EXPECT_EQ(run(*queue, make_io(BlockOp::kRead, across, 4 * kBlock, buffer.get())), EIO);
  file_.resize(kFileBytes / 2 - 100);
  EXPECT_EQ(run(*queue, make_io(BlockOp::kRead, across, kBlock, buffer.get())), EIO);
  EXPECT_EQ(run(*queue, make_io(BlockOp::kRead, 0, kBlock, buffer.get())), 0);
}

TEST_P(BlockQueueTest, ZerosAreMadeWithoutData) {
  auto queue = open_queue(4);
  const UniqueFd fd(open(file_.path().c_str(), O_RDWR));
  const std::string before(kFileBytes, 'w');
  for (const BlockOp op : {BlockOp::kPunchHole, BlockOp::kZero}) {
    ASSERT_EQ(pwrite(fd.get(), before.data(), before.size(), 0), ssize_t{kFileBytes});
    const int result = run(*queue, make_io(op, 1 << 20, (1 << 20) + kBlock, nullptr));
    if (result == EOPNOTSUPP) continue;  // a file system may lack either
    EXPECT_EQ(result, 0);
    std::string after(kFileBytes, 0), expected = before;
    ASSERT_EQ(pread(fd.get(), after.data(), after.size(), 0), ssize_t{kFileBytes});
    std::fill_n(expected.begin() + (1 << 20), (1 << 20) + kBlock, 0);
    EXPECT_TRUE(after == expected);
  }
}

TEST_P(BlockQueueTest, NothingInFlightReturnsAtOnce) {
  auto queue = open_queue(4);
  EXPECT_EQ(queue->poll(), 0u);
  EXPECT_EQ(queue->wait(-1), 0u);
}

// A request whose `done` waits: it stays in flight.
struct HeldDone {
  std::binary_semaphore entered{0}, leave{0};
  static void done(BlockIo* io) {
    auto* held = static_cast<HeldDone*>(io->ctx);
    held->entered.release();
    held->leave.acquire();
  }
};

TEST_P(BlockQueueTest, WaitTimesOutAndSeesDoneOfAnotherThread) {
  auto queue = open_queue(4);
  Buffer buffer = make_buffer(kBlock);
  HeldDone held;
  BlockIo io = make_io(BlockOp::kRead, 0, kBlock, buffer.get());
  io.ctx = &held;
  io.done = HeldDone::done;
  queue->submit(&io);
  std::thread helper([&] {
    while (queue->poll() == 0) std::this_thread::yield();
  });
  held.entered.acquire();
  EXPECT_EQ(queue->wait(0), 0u);
  EXPECT_EQ(queue->wait(2'000'000), 0u);
  EXPECT_EQ(queue->in_flight(), 1u);
  std::thread releaser([&] { held.leave.release(); });
  EXPECT_EQ(queue->wait(-1), 0u);  // woken by the helper, if it had time to fall asleep
  EXPECT_EQ(queue->in_flight(), 0u);
  helper.join();
  releaser.join();
}

TEST_P(BlockQueueTest, FdTurnsReadable) {
  auto queue = open_queue(4);
  Buffer buffer = make_buffer(kBlock);
  BlockIo io = make_io(BlockOp::kRead, 0, kBlock, buffer.get());
  for (int round = 0; round < 20; round++) {
    queue->submit(&io);
    queue->kick();
    while (queue->in_flight() > 0) {
      pollfd pfd = {queue->fd(), POLLIN, 0};
      const int rc = ::poll(&pfd, 1, -1);
      ASSERT_TRUE(rc == 1 || (rc < 0 && errno == EINTR));
      queue->poll();
    }
    EXPECT_EQ(done_.load(), round + 1u);
  }
  pollfd pfd = {queue->fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&pfd, 1, 0), 0);
}

// The owner sleeps in wait() while others poll its completions and submit to its queue: a lost wake
// would hang a round.
TEST_P(BlockQueueTest, OthersPollWhileTheOwnerWaits) {
  auto queue = open_queue(4);
  std::atomic<bool> stop{false};
  std::vector<std::thread> helpers;
  for (int t = 0; t < 2; t++)
    helpers.emplace_back([&, t] {
      Buffer buffer = make_buffer(kBlock);
      std::atomic<unsigned> done{0};
      BlockIo io = make_io(BlockOp::kRead, kBlock, kBlock, buffer.get());
      io.ctx = &done;
      while (!stop.load()) {
        if (t == 1) {
          const unsigned before = done.load();
          queue->submit(&io);
          queue->kick();
          while (done.load() == before) queue->poll();
        } else {
          queue->poll();
        }
      }
    });
  Buffer buffer = make_buffer(4 * kBlock);
  for (int round = 0; round < 1000; round++) {
    const unsigned count = 1 + round % 3;
    std::vector<BlockIo> ios(count);
    done_ = 0;
    for (unsigned i = 0; i < count; i++) {
      ios[i] = make_io(i == 2 ? BlockOp::kWrite : BlockOp::kRead, i * kBlock, kBlock,
                       buffer.get() + i * kBlock);
      queue->submit(&ios[i]);
    }
    while (done_.load() < count) queue->wait(-1);
    for (const BlockIo& io : ios) ASSERT_EQ(io.result, 0);
  }
  stop = true;
  for (std::thread& helper : helpers) helper.join();
  finish_all(*queue);
}

// The kernel drops queued work of a thread that ends; the request must complete all the same.
TEST_P(BlockQueueTest, SubmitterMayExitAtOnce) {
  auto queue = open_queue(64);
  Buffer buffer = make_buffer(64 * kBlock);
  for (int round = 0; round < 20; round++) {
    std::vector<BlockIo> ios(64);
    std::thread([&] {
      for (unsigned i = 0; i < ios.size(); i++) {
        ios[i] = make_io(i % 4 == 3 ? BlockOp::kFlush : BlockOp::kWrite, i * kBlock, kBlock,
                         buffer.get() + i * kBlock);
        queue->submit(&ios[i]);
      }
      queue->kick();
    }).join();
    finish_all(*queue);
    for (const BlockIo& io : ios) ASSERT_EQ(io.result, 0);
  }
}

TEST_P(BlockQueueTest, QueuesOfOneDeviceAreIndependent) {
  auto one = open_queue(1), two = open_queue(8);
  Buffer buffer = make_buffer(2 * kBlock);
  BlockIo a = make_io(BlockOp::kRead, 0, kBlock, buffer.get());
  BlockIo b = make_io(BlockOp::kRead, 0, kBlock, buffer.get() + kBlock);
  one->submit(&a);
  two->submit(&b);
  finish_all(*two);
  EXPECT_EQ(one->in_flight(), 1u);
  finish_all(*one);
  EXPECT_EQ(done_.load(), 2u);
}

std::string name_of(const testing::TestParamInfo<Way>& info) {
  constexpr const char* kNames[] = {"uring", "threads", "nbd", "nbd_shared"};
  return kNames[static_cast<int>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Ways, BlockQueueTest,
                         testing::Values(Way::kUring, Way::kThreads, Way::kNbd, Way::kNbdShared),
                         name_of);

}  // namespace
}  // namespace pcache
