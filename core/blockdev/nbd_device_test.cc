// SPDX-License-Identifier: GPL-2.0-or-later
// A backing device on a server that dies, hangs, comes back as itself or as another, has no flush.
#include "blockdev/nbd_device.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>

#include <memory>
#include <string>
#include <vector>

#include "blockdev/nbd_server_for_test.h"
#include "blockdev/temp_file_for_test.h"

namespace pcache {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr uint32_t kBlock = 4096;
constexpr uint64_t kFileBytes = 8u << 20;
constexpr int64_t kShortNs = 50'000'000;

class NbdDeviceTest : public testing::Test {
 protected:
  Result<std::unique_ptr<BlockDevice>> open(bool read_only = false,
                                            IoMode io_mode = IoMode::kAuto) {
    BlockDeviceOptions options;
    options.path = server_.uri();
    options.read_only = read_only;
    options.io_mode = io_mode;
    return open_block_device(
        options, Log([this](LogLevel, const char* line) { lines_.emplace_back(line); }));
  }
  void expect_refused(int code, const char* text) {
    const auto refused = open();
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, code) << refused.error().text;
    EXPECT_THAT(refused.error().text, HasSubstr(text));
    EXPECT_THAT(refused.error().text, Not(HasSubstr("\n")));
  }

  void serve_file(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"file", file_.path()};
    for (std::string& argument : more)
      arguments.insert(argument.starts_with("--") ? arguments.begin() : arguments.end(), argument);
    server_.start(arguments);
  }
  void open_queue(unsigned depth = 16) {
    auto device = open();
    ASSERT_TRUE(device.ok()) << device.error().text;
    device_ = device.take();
    auto queue = device_->open_queue(depth);
    ASSERT_TRUE(queue.ok()) << queue.error().text;
    queue_ = queue.take();
  }

  void submit(BlockIo* io, BlockOp op, uint64_t off = 0, uint32_t len = 0, void* buf = nullptr) {
    *io = {};
    io->op = op;
    io->off = off;
    io->len = len;
    io->buf = buf;
    io->done = [](BlockIo*) {};
    queue_->submit(io);
  }
  void finish() {
    while (queue_->in_flight() > 0) queue_->wait(-1);
  }
  int run(BlockOp op, uint64_t off = 0, uint32_t len = 0, void* buf = nullptr) {
    BlockIo io;
    submit(&io, op, off, len, buf);
    finish();
    return io.result;
  }
  int write(char with) {
    std::vector<char> data(kBlock, with);
    return run(BlockOp::kWrite, 0, kBlock, data.data());
  }
  int flush() { return run(BlockOp::kFlush); }

  // Until the connection is seen to have ended.
  void wait_for_line(const char* text) {
    const auto seen = [&] {
      return std::any_of(lines_.begin(), lines_.end(), [&](const std::string& line) {
        return line.find(text) != std::string::npos;
      });
    };
    while (!seen()) queue_->wait(kShortNs);
  }

  TempFile file_{kFileBytes};
  NbdServerForTest server_;
  std::vector<std::string> lines_;
  std::unique_ptr<BlockDevice> device_;
  std::unique_ptr<BlockQueue> queue_;  // destroyed before it
};

TEST_F(NbdDeviceTest, SaysWhatItIs) {
  serve_file();
  open_queue();
  EXPECT_EQ(device_->size_bytes(), kFileBytes);
  EXPECT_EQ(device_->logical_block_bytes(), 512u);
  EXPECT_STREQ(device_->io_mode_name(), "nbd");
  EXPECT_TRUE(device_->makes_holes());
  EXPECT_EQ(device_->identity().text, "nbd " + server_.uri());
  EXPECT_TRUE(device_->identity().stable);
  EXPECT_THAT(lines_, IsEmpty());
}

TEST_F(NbdDeviceTest, BlockSizesOfTheServerHold) {
  file_.resize(kFileBytes + 1024);
  serve_file({"--filter=blocksize-policy", "blocksize-error-policy=error", "blocksize-minimum=4096",
              "blocksize-preferred=4096", "blocksize-maximum=65536"});
  open_queue();
  EXPECT_EQ(device_->logical_block_bytes(), 4096u);
  EXPECT_EQ(device_->size_bytes(), kFileBytes);
  EXPECT_THAT(lines_, Contains(HasSubstr("the last 1024 bytes are not used")));
  std::vector<char> out(1 << 20), in(1 << 20);
  for (size_t i = 0; i < out.size(); i++) out[i] = static_cast<char>(i * 7 + i / 65536);
  EXPECT_EQ(run(BlockOp::kWrite, 4096, out.size(), out.data()), 0);
  EXPECT_EQ(run(BlockOp::kRead, 4096, in.size(), in.data()), 0);
  EXPECT_EQ(in, out);
}

TEST_F(NbdDeviceTest, IsRefusedInOneLine) {
  expect_refused(ENOENT, "cannot connect");
  serve_file({"--readonly"});
  expect_refused(EROFS, "only read it, with readonly=1");
  EXPECT_TRUE(open(true).ok());
  server_.stop();
  server_.start({"eval", "get_size=echo 1M", "pread=exit 1", "pwrite=exit 1", "can_write=exit 0",
                 "can_flush=exit 3"});
  expect_refused(EOPNOTSUPP, "the server has no flush");
  server_.stop();
  server_.start({"null", "size=100"});
  expect_refused(EINVAL, "less than one block");
  server_.stop();
  server_.start({"null", "size=1M"});
  const auto refused = open(false, IoMode::kThreads);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().text, HasSubstr("leave io_mode out"));
}

// nbdkit's error filter answers with what a server's device reports.
TEST_F(NbdDeviceTest, ErrorsOfTheServerArriveAsTheyAre) {
  serve_file({"--filter=error", "error-pwrite=ENOSPC", "error-pwrite-rate=1", "error-pread=EIO",
              "error-pread-rate=1"});
  open_queue();
  std::vector<char> data(kBlock);
  EXPECT_EQ(write('a'), ENOSPC);
  EXPECT_EQ(run(BlockOp::kRead, 0, kBlock, data.data()), EIO);
  EXPECT_EQ(flush(), 0);
}

TEST_F(NbdDeviceTest, ADeviceThatMakesNoZerosSaysSo) {
  serve_file({"--filter=nozero"});
  open_queue();
  EXPECT_EQ(run(BlockOp::kZero, 0, kBlock), EOPNOTSUPP);
  EXPECT_EQ(run(BlockOp::kPunchHole, 0, kBlock), EOPNOTSUPP);
}

TEST_F(NbdDeviceTest, WhatWaitsIsDoneByTheServerThatComesBack) {
  serve_file();
  open_queue(4);
  ASSERT_EQ(write('a'), 0);
  ASSERT_EQ(flush(), 0);
  server_.stop();
  std::vector<std::vector<char>> data(16, std::vector<char>(kBlock, 'b'));
  std::vector<BlockIo> ios(16);
  for (size_t i = 0; i < ios.size(); i++)
    submit(&ios[i], BlockOp::kWrite, i * kBlock, kBlock, data[i].data());
  wait_for_line("the connection is lost");
  EXPECT_EQ(queue_->in_flight(), 16u);
  serve_file();
  finish();
  for (const BlockIo& io : ios) EXPECT_EQ(io.result, 0);
  EXPECT_THAT(lines_, Contains(HasSubstr("connected again after")));
  EXPECT_EQ(flush(), 0);
  std::vector<char> back(kBlock);
  EXPECT_EQ(run(BlockOp::kRead, 15 * kBlock, kBlock, back.data()), 0);
  EXPECT_EQ(back, data[15]);
}

TEST_F(NbdDeviceTest, WhatIsInFlightIsDoneByTheServerThatComesBack) {
  serve_file();
  open_queue();
  std::vector<char> out(kBlock, 'x'), in(kBlock);
  BlockIo write, read;
  server_.pause();
  submit(&write, BlockOp::kWrite, 0, kBlock, out.data());
  submit(&read, BlockOp::kRead, 2 * kBlock, kBlock, in.data());
  queue_->wait(kShortNs);
  EXPECT_EQ(queue_->in_flight(), 2u);
  server_.stop();
  serve_file();
  finish();
  EXPECT_EQ(write.result, 0);
  EXPECT_EQ(read.result, 0);
  EXPECT_EQ(run(BlockOp::kRead, 0, kBlock, in.data()), 0);
  EXPECT_EQ(in, out);
}

// nbdkit answers ESHUTDOWN when it is told to end.
TEST_F(NbdDeviceTest, AServerThatShutsDownIsWaitedFor) {
  serve_file();
  open_queue();
  server_.stop(SIGTERM);
  BlockIo io;
  std::vector<char> data(kBlock, 'x');
  submit(&io, BlockOp::kWrite, 0, kBlock, data.data());
  wait_for_line("the connection is lost");
  serve_file();
  finish();
  EXPECT_EQ(io.result, 0);
}

TEST_F(NbdDeviceTest, AServerThatHangsIsWaitedFor) {
  serve_file();
  open_queue();
  server_.pause();
  BlockIo io;
  std::vector<char> data(kBlock, 'x');
  submit(&io, BlockOp::kWrite, 0, kBlock, data.data());
  EXPECT_EQ(queue_->wait(kShortNs), 0u);
  EXPECT_EQ(queue_->in_flight(), 1u);
  server_.go_on();
  finish();
  EXPECT_EQ(io.result, 0);
  EXPECT_THAT(lines_, IsEmpty());
}

// The server may have had the write in its own memory alone.
TEST_F(NbdDeviceTest, AFlushBehindALossFailsOnce) {
  serve_file();
  open_queue();
  ASSERT_EQ(write('a'), 0);
  server_.stop();
  serve_file();
  EXPECT_EQ(flush(), kWritesLost);
  ASSERT_EQ(write('a'), 0);
  EXPECT_EQ(flush(), 0);
}

TEST_F(NbdDeviceTest, ALossThatHappensUnderTheFlushFailsIt) {
  serve_file();
  open_queue();
  ASSERT_EQ(write('a'), 0);
  server_.pause();
  BlockIo io;
  submit(&io, BlockOp::kFlush);
  server_.stop();
  serve_file();
  finish();
  EXPECT_EQ(io.result, kWritesLost);
}

TEST_F(NbdDeviceTest, ALossWithNothingUnflushedFailsNoFlush) {
  serve_file();
  open_queue();
  ASSERT_EQ(write('a'), 0);
  ASSERT_EQ(flush(), 0);
  server_.stop();
  serve_file();
  EXPECT_EQ(flush(), 0);
}

// The server had a part of it, and not flushed that.
TEST_F(NbdDeviceTest, ALongWriteIsRepeatedFromItsBeginning) {
  const std::vector<std::string> small = {"--filter=blocksize-policy", "blocksize-maximum=65536",
                                          "blocksize-error-policy=error"};
  std::vector<std::string> slow = small;
  slow.insert(slow.begin() + 1, "--filter=delay");
  slow.push_back("delay-write=100ms");
  serve_file(slow);
  open_queue();
  std::vector<char> data(4 * 65536, 'x');
  BlockIo io;
  submit(&io, BlockOp::kWrite, 0, data.size(), data.data());
  while (io.progress == 0) queue_->wait(kShortNs / 10);
  ASSERT_LT(io.progress, data.size());
  server_.stop();
  const UniqueFd fd(::open(file_.path().c_str(), O_RDWR));
  ASSERT_EQ(ftruncate(fd.get(), 0), 0);  // what it had is lost
  file_.resize(kFileBytes);
  serve_file(small);
  finish();
  EXPECT_EQ(io.result, 0);
  EXPECT_EQ(flush(), 0);
  std::vector<char> back(data.size());
  ASSERT_EQ(pread(fd.get(), back.data(), back.size(), 0), static_cast<ssize_t>(back.size()));
  EXPECT_EQ(back, data);
}

// A child that was forked has the socket, too.
TEST_F(NbdDeviceTest, ALostConnectionIsNotWatchedThroughAChild) {
  serve_file();
  open_queue();
  ASSERT_EQ(write('a'), 0);
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  server_.stop();
  BlockIo io;
  std::vector<char> data(kBlock, 'x');
  submit(&io, BlockOp::kWrite, 0, kBlock, data.data());
  wait_for_line("the connection is lost");
  unsigned looks = 0;
  for (int i = 0; i < 10; i++) {
    pollfd ready = {queue_->fd(), POLLIN, 0};
    looks += ::poll(&ready, 1, 20) > 0;
    if (ready.revents) queue_->poll();
  }
  EXPECT_LT(looks, 10u) << "its fd is always readable";
  serve_file();
  finish();
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

// Also of those that had no write themselves: they may flush for others.
TEST_F(NbdDeviceTest, EachQueueIsToldOfALoss) {
  serve_file();
  open_queue();
  auto other = device_->open_queue(4);
  ASSERT_TRUE(other.ok());
  ASSERT_EQ(write('a'), 0);
  server_.stop();
  serve_file();
  EXPECT_EQ(flush(), kWritesLost);
  queue_ = other.take();
  EXPECT_EQ(flush(), kWritesLost);
  EXPECT_EQ(flush(), 0);
}

TEST_F(NbdDeviceTest, AnotherDeviceIsGivenNothing) {
  serve_file();
  open_queue();
  server_.stop();
  server_.start({"memory", "1M"});
  BlockIo io;
  std::vector<char> data(kBlock, 'x');
  submit(&io, BlockOp::kWrite, 0, kBlock, data.data());
  wait_for_line("another device is there now");
  EXPECT_EQ(queue_->in_flight(), 1u);
  server_.stop();
  serve_file();
  finish();
  EXPECT_EQ(io.result, 0);
}

TEST_F(NbdDeviceTest, WhatWaitsForALostServerCanBeGivenUp) {
  serve_file();
  open_queue();
  server_.stop();
  BlockIo io, later;
  std::vector<char> data(kBlock, 'x');
  submit(&io, BlockOp::kWrite, 0, kBlock, data.data());
  wait_for_line("the connection is lost");
  device_->give_up();
  finish();
  EXPECT_EQ(io.result, ENOTCONN);
  submit(&later, BlockOp::kRead, 0, kBlock, data.data());
  finish();
  EXPECT_EQ(later.result, ENOTCONN);
}

}  // namespace
}  // namespace pcache
