// SPDX-License-Identifier: GPL-2.0-or-later
// Opening: what is refused, with which message; what is measured; which way of I/O is used.
#include "blockdev/block_device.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "base/forbid_for_test.h"
#include "blockdev/backing_file.h"
#include "blockdev/backing_reader.h"
#include "blockdev/temp_file_for_test.h"
#include "blockdev/uring_device.h"

namespace pcache {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

struct Opened {
  Result<std::unique_ptr<BlockDevice>> device;
  std::vector<std::string> log;
};

template <int code>
int refuse_ring(unsigned, io_uring*, io_uring_params*) {
  return -code;
}

int old_ring(unsigned entries, io_uring* ring, io_uring_params* params) {
  const int rc = io_uring_queue_init_params(entries, ring, params);
  params->features &= ~IORING_FEAT_EXT_ARG;
  return rc;
}

Opened open_it(const std::string& path, bool read_only = false, IoMode io_mode = IoMode::kAuto,
               UringInit init = &io_uring_queue_init_params) {
  BlockDeviceOptions options;
  options.path = path;
  options.io_mode = io_mode;
  options.read_only = read_only;
  options.busy_timeout_ms = 0;
  std::vector<std::string> lines;
  const Log log([&](LogLevel, const char* line) { lines.push_back(line); });
  auto device = open_block_device_with(options, log, init);
  return Opened{std::move(device), std::move(lines)};
}

void expect_error(const Opened& opened, int code, const std::string& text) {
  ASSERT_FALSE(opened.device.ok());
  EXPECT_EQ(opened.device.error().code, code);
  EXPECT_THAT(opened.device.error().text, HasSubstr(text));
}

TEST(OpenBlockDevice, MeasuresAndIdentifiesAFile) {
  TempFile file(1u << 20);
  std::string identity;
  for (int i = 0; i < 2; i++) {
    Opened opened = open_it(file.path());
    ASSERT_TRUE(opened.device.ok()) << opened.device.error().text;
    const BlockDevice& device = *opened.device.value();
    EXPECT_EQ(device.size_bytes(), 1u << 20);
    EXPECT_GE(device.logical_block_bytes(), 512u);
    EXPECT_THAT(device.identity().text, StartsWith("file fs"));
    if (i == 1) {
      EXPECT_EQ(device.identity().text, identity);
    }
    identity = device.identity().text;
  }
  TempFile other(1u << 20);
  EXPECT_NE(open_it(other.path()).device.value()->identity().text, identity);
}

TEST(OpenBlockDevice, OddSizeIsRoundedDownWithAWarning) {
  TempFile file((1u << 20) + 100);
  Opened opened = open_it(file.path());
  ASSERT_TRUE(opened.device.ok()) << opened.device.error().text;
  EXPECT_EQ(opened.device.value()->size_bytes(), 1u << 20);
  EXPECT_THAT(opened.log, ElementsAre(HasSubstr("the last 100 bytes are not used")));
}

TEST(OpenBlockDevice, RefusesWhatIsNoDevice) {
  expect_error(open_it("/nonexistent/device"), ENOENT, "/nonexistent/device: No such file");
  expect_error(open_it("/dev/null"), ENOTBLK, "/dev/null is a character device");
  expect_error(open_it(testing::TempDir()), ENOTBLK, "is a directory");
  const std::string fifo = testing::TempDir() + "pcache-fifo-" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  expect_error(open_it(fifo), ENOTBLK, "is a FIFO");
  unlink(fifo.c_str());
}

TEST(OpenBlockDevice, RefusesAnEmptyFile) {
  TempFile empty(0), small(100);
  expect_error(open_it(empty.path()), EINVAL, "holds 0 bytes");
  expect_error(open_it(small.path()), EINVAL, "holds 100 bytes");
}

TEST(OpenBlockDevice, SaysThatThereIsNoDirectIo) {
  expect_error(open_it("/proc/version", true), EINVAL, "has no O_DIRECT");
}

TEST(OpenBlockDevice, ExcludesOthers) {
  TempFile file(1u << 20);
  {
    Opened writer = open_it(file.path());
    ASSERT_TRUE(writer.device.ok());
    expect_error(open_it(file.path()), EBUSY, "in use");
    expect_error(open_it(file.path(), true), EBUSY, "in use");
  }
  Opened reader = open_it(file.path(), true), second_reader = open_it(file.path(), true);
  EXPECT_TRUE(reader.device.ok());
  EXPECT_TRUE(second_reader.device.ok());
  expect_error(open_it(file.path()), EBUSY, "in use");
}

TEST(OpenBlockDevice, WaitsForAPredecessorToLeave) {
  TempFile file(1u << 20);
  Opened predecessor = open_it(file.path());
  ASSERT_TRUE(predecessor.device.ok());
  std::binary_semaphore started(0);
  std::thread leaving([&] {
    started.acquire();
    predecessor.device.value().reset();
  });
  BlockDeviceOptions options;
  options.path = file.path();
  options.busy_timeout_ms = 60'000;
  started.release();
  auto successor = open_block_device(options, Log());
  EXPECT_TRUE(successor.ok());
  leaving.join();
}

TEST(OpenBlockDevice, ReopensAtOnceAfterAClose) {
  TempFile file(1u << 20);
  for (int round = 0; round < 50; round++) {
    Opened opened = open_it(file.path(), false, IoMode::kUring);
    ASSERT_TRUE(opened.device.ok()) << round << opened.device.error().text;
    auto queue = opened.device.value()->open_queue(1).take();
    BlockIo io;
    io.op = BlockOp::kFlush;
    io.done = [](BlockIo*) {};
    queue->submit(&io);
    while (queue->in_flight() > 0) queue->wait(-1);
  }
}

TEST(OpenBlockDevice, ReadOnlyRefusesWrites) {
  TempFile file(1u << 20);
  for (IoMode io_mode : {IoMode::kUring, IoMode::kThreads}) {
    Opened opened = open_it(file.path(), true, io_mode);
    ASSERT_TRUE(opened.device.ok());
    auto queue = opened.device.value()->open_queue(1).take();
    alignas(4096) char buffer[4096] = {};
    BlockIo io;
    io.op = BlockOp::kWrite;
    io.len = sizeof buffer;
    io.buf = buffer;
    io.done = [](BlockIo*) {};
    queue->submit(&io);
    while (queue->in_flight() > 0) queue->wait(-1);
    EXPECT_EQ(io.result, EBADF);
  }
}

TEST(OpenBlockDevice, UringThatIsRefusedIsAnErrorOrThreads) {
  TempFile file(1u << 20);
  const struct {
    UringInit init;
    int code;
    const char* text;
  } cases[] = {
      {&refuse_ring<EPERM>, EPERM, "kernel.io_uring_disabled=0"},
      {&refuse_ring<EACCES>, EACCES, "seccomp profile"},
      {&refuse_ring<ENOSYS>, ENOSYS, "io_mode=threads"},
      {&refuse_ring<ENOMEM>, ENOMEM, "RLIMIT_MEMLOCK"},
      {&refuse_ring<EMFILE>, EMFILE, "cannot set up io_uring"},
      {&old_ring, EOPNOTSUPP, "too old"},
  };
  for (const auto& c : cases) {
    expect_error(open_it(file.path(), false, IoMode::kUring, c.init), c.code, c.text);
    Opened opened = open_it(file.path(), false, IoMode::kAuto, c.init);
    ASSERT_TRUE(opened.device.ok()) << opened.device.error().text;
    EXPECT_STREQ(opened.device.value()->io_mode_name(), "threads");
    EXPECT_THAT(opened.log, ElementsAre(HasSubstr(c.text)));
  }
}

// A filter may allow to set up a ring and forbid to enter it.
TEST(OpenBlockDevice, UringThatMayNotBeEnteredIsAnErrorOrThreads) {
  TempFile file(1u << 20);
  std::thread([&] {
    forbid_in_this_thread(__NR_io_uring_enter, EPERM);
    expect_error(open_it(file.path(), false, IoMode::kUring), EPERM, "io_uring_enter");
    Opened opened = open_it(file.path(), false, IoMode::kAuto);
    ASSERT_TRUE(opened.device.ok()) << opened.device.error().text;
    EXPECT_STREQ(opened.device.value()->io_mode_name(), "threads");
    EXPECT_THAT(opened.log, ElementsAre(HasSubstr("is not permitted here")));
  }).join();
}

TEST(OpenBlockDevice, TheSizeOfAFileIsSynced) {
  TempFile file(1u << 20);
  std::thread([&] {
    forbid_in_this_thread(__NR_fsync, ENOSPC);
    const auto expect_unsynced = [&](const Status& synced) {
      ASSERT_FALSE(synced.ok());
      EXPECT_EQ(synced.error().code, ENOSPC);
      EXPECT_THAT(synced.error().text, HasSubstr(file.path() + ": fsync fails"));
    };
    for (const IoMode io_mode : {IoMode::kUring, IoMode::kThreads}) {
      const Opened opened = open_it(file.path(), true, io_mode);
      ASSERT_TRUE(opened.device.ok()) << opened.device.error().text;
      expect_unsynced(opened.device.value()->sync_size());
    }
    const auto reader = BackingReader::open(file.path(), Log());
    ASSERT_TRUE(reader.ok()) << reader.error().text;
    expect_unsynced(reader.value().sync_size());
  }).join();
  EXPECT_TRUE(open_it(file.path()).device.value()->sync_size().ok());
}

TEST(OpenBlockDevice, SaysThatThereIsNoThread) {
  TempFile file(1u << 20);
  Opened opened = open_it(file.path(), false, IoMode::kThreads);
  ASSERT_TRUE(opened.device.ok()) << opened.device.error().text;
  std::thread([&] {
    forbid_threads_in_this_thread();
    const auto queue = opened.device.value()->open_queue(4);
    ASSERT_FALSE(queue.ok());
    EXPECT_EQ(queue.error().code, EAGAIN);
    EXPECT_THAT(queue.error().text,
                HasSubstr("no thread for I/O on backing device " + file.path()));
  }).join();
}

TEST(OpenBlockDevice, ThreadsDoNotAskForARing) {
  TempFile file(1u << 20);
  Opened opened = open_it(file.path(), false, IoMode::kThreads, nullptr);
  ASSERT_TRUE(opened.device.ok());
  EXPECT_STREQ(opened.device.value()->io_mode_name(), "threads");
  EXPECT_THAT(opened.log, IsEmpty());
}

// A buffer of ours is no larger than its blocks and alignment may be.
TEST(CheckAlign, PowersOfTwoUpToALimit) {
  const struct {
    DirectIoAlign align;
    bool fits;
  } rows[] = {{{512, 512}, true},
              {{4096, 4}, true},
              {{kMostDirectIoBytes, kMostDirectIoBytes}, true},
              {{2 * kMostDirectIoBytes, 512}, false},
              {{512, 2 * kMostDirectIoBytes}, false},
              {{0, 512}, false},
              {{1536, 512}, false}};
  for (const auto& row : rows) {
    const Status fits = check_align("/dev/sdb", row.align);
    EXPECT_EQ(fits.ok(), row.fits) << row.align.block_bytes << " " << row.align.memory_bytes;
    if (!fits) {
      EXPECT_EQ(fits.error().code, EINVAL);
      EXPECT_THAT(fits.error().text,
                  StartsWith("backing device /dev/sdb: direct I/O in blocks of"));
    }
  }
}

}  // namespace
}  // namespace pcache
