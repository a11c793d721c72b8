// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/write_out.h"

#include "background/background_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class WriteOutTest : public BackgroundTest {
 protected:
  void start(const RigOptions& o = {}) {
    BackgroundTest::start(o);
    device_->start_journal();
    written_ = 0;
    out_ = WriteOut::create(rig_->out_media(), {.written =
                                                    [this](uint64_t bytes) {
                                                      written_ += bytes;
                                                      if (on_written_) on_written_();
                                                    },
                                                .before_wait =
                                                    [this] {
                                                      if (before_wait_) before_wait_();
                                                    }})
               .take();
  }
  void TearDown() override {
    out_.reset();
    BackgroundTest::TearDown();
  }
  // All keys of the log, and then the writes as "OFF+LEN" in sectors.
  WriteOut::Done write(unsigned depth = WriteOut::kDepth) {
    rig_->close();
    batch_.clear();
    for (const media::Key& key : rig_->keys_from(rig_->tails.key_tail())) batch_.add(key);
    return out_->write(batch_, batch_.pieces(), {.depth = depth});
  }
  std::vector<std::string> writes() const {
    std::vector<std::string> text;
    for (const MemoryDevice::Event& event : device_->journal())
      text.push_back(event.op == BlockOp::kFlush
                         ? "flush"
                         : (event.op == BlockOp::kPunchHole ? "hole "
                            : event.op == BlockOp::kZero    ? "zero "
                                                            : "") +
                               std::to_string(event.extent.off / kSector) + "+" +
                               std::to_string(event.extent.len / kSector));
    return text;
  }

  DirtyBatch batch_;
  std::unique_ptr<WriteOut> out_;
  uint64_t written_ = 0;
  std::function<void()> on_written_, before_wait_;
};

TEST_F(WriteOutTest, NothingIsNoWrite) {
  start();
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_EQ(done.ios, 0u);
  EXPECT_THAT(writes(), IsEmpty());
}

TEST_F(WriteOutTest, NeighboursBecomeOneWrite) {
  start();
  for (uint32_t i = 0; i < 16; i++) rig_->write((i * 5 % 16) * 4096, 4096, i * 5 % 16);
  rig_->write(1 << 20, 512, 100);
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_EQ(done.ios, 2u);
  EXPECT_EQ(done.bytes, 16u * 4096 + 512);
  EXPECT_EQ(written_, done.bytes);
  EXPECT_THAT(done.bad_keys, IsEmpty());
  EXPECT_THAT(writes(), ElementsAre("0+128", "2048+1"));
  for (uint32_t i = 0; i < 16; i++) EXPECT_EQ(rig_->device_value(i * 4096), int(i));
}

TEST_F(WriteOutTest, AWriteIsAQuarterOfAMegabyteAtMost) {
  start();
  rig_->write(0, 512, 1);
  rig_->write(512, (1 << 20) + 512, 2);
  const auto done = write();
  EXPECT_EQ(done.ios, 5u);
  EXPECT_THAT(writes(), ElementsAre("0+512", "512+512", "1024+512", "1536+512", "2048+2"));
  EXPECT_EQ(rig_->on_device({512, (1 << 20) + 512}), Rig::filled((1 << 20) + 512, 2));
  EXPECT_EQ(rig_->device_value((1 << 20) + 1024), Rig::kBacking);
}

TEST_F(WriteOutTest, WritesGoOnPastARangesEnd) {
  start();
  rig_->write(kRangeBytes - 4096, 8192, 3);
  EXPECT_EQ(write().ios, 1u);
  EXPECT_EQ(rig_->device_value(kRangeBytes), 3);
}

TEST_F(WriteOutTest, PartsOfKeysAreWritten) {
  start({.data_crc = true});
  rig_->write(0, 4096, 1);
  rig_->write(1024, 512, 2);
  rig_->write(3072, 4096, 3);
  const auto done = write();
  EXPECT_THAT(done.bad_keys, IsEmpty());
  EXPECT_THAT(writes(), ElementsAre("0+14"));
  const int expected[] = {1, 1, 2, 1, 1, 1, 3, 3};
  for (uint32_t s = 0; s < 8; s++) EXPECT_EQ(rig_->device_value(s * 512), expected[s]);
}

// More of them than are in flight at a time.
TEST_F(WriteOutTest, ManyScatteredWrites) {
  start();
  for (uint32_t i = 0; i < 10 * WriteOut::kDepth; i++) rig_->write(i * 8192, 512, i);
  EXPECT_EQ(write().ios, 10u * WriteOut::kDepth);
  for (uint32_t i = 0; i < 10 * WriteOut::kDepth; i++)
    ASSERT_EQ(rig_->device_value(i * 8192), int(i));
}

TEST_F(WriteOutTest, ManyAreInFlightAndNoneAfterwards) {
  start();
  for (uint32_t i = 0; i < 3 * WriteOut::kDepth; i++) rig_->write(i * 8192, 512, i);
  device_->hold();
  device_->set_release_on_wait(true);
  const auto done = write();
  EXPECT_EQ(done.ios, 3u * WriteOut::kDepth);
  EXPECT_EQ(written_, done.bytes) << "every one has completed";
  EXPECT_EQ(device_->held(), 0u);
}

TEST_F(WriteOutTest, SoManyAreInFlightAtMost) {
  start();
  for (uint32_t i = 0; i < 3 * WriteOut::kDepth; i++) rig_->write(i * 8192, 512, i);
  for (const unsigned depth : {1u, kHurriedDepth, WriteOut::kDepth}) {
    device_->hold();
    device_->set_release_on_wait(true);
    EXPECT_EQ(write(depth).ios, 3u * WriteOut::kDepth);
    EXPECT_EQ(device_->most_held(), depth);
  }
}

TEST_F(WriteOutTest, BadDataIsNotWritten) {
  start({.data_crc = true});
  for (uint32_t i = 0; i < 4; i++) rig_->write(i * 4096, 4096, i + 1);
  damage(4096 + 1024);
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_THAT(done.bad_keys, ElementsAre(1u));
  EXPECT_THAT(writes(), ElementsAre("0+8", "16+16"));
  EXPECT_EQ(rig_->on_device({4096, 4096}), MemoryDevice::pattern(4096, 4096));
}

// The bad bit is in a sector that another key has overwritten: it is the whole that was promised.
TEST_F(WriteOutTest, APartIsCheckedAgainstItsWhole) {
  start({.data_crc = true});
  rig_->write(0, 8192, 1);
  damage(512);
  rig_->write(512, 512, 2);
  rig_->write(4096, 512, 3);
  const auto done = write();
  EXPECT_THAT(done.bad_keys, ElementsAre(0u)) << "once, though it has three parts";
  EXPECT_THAT(writes(), ElementsAre("1+1", "8+1"));
}

TEST_F(WriteOutTest, UnreadableDataIsNotWritten) {
  start();
  for (uint32_t i = 0; i < 4; i++) rig_->write(i * 4096, 4096, i + 1);
  rig_->close();
  make_unreadable(8192);
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_THAT(done.bad_keys, ElementsAre(2u));
  EXPECT_THAT(writes(), ElementsAre("0+16", "24+8"));
}

TEST_F(WriteOutTest, UnreadableDataUnderACrcIsNotWritten) {
  start({.data_crc = true});
  rig_->write(0, 4096, 1);
  rig_->write(4096, 16384, 2);
  rig_->write(4096, 512, 3);  // its first part
  rig_->close();
  make_unreadable(4096 + 12288);
  const auto done = write();
  EXPECT_THAT(done.bad_keys, ElementsAre(1u));
  EXPECT_THAT(writes(), ElementsAre("0+9"));
}

// Without data_crc a long extent is read as it is written.
TEST_F(WriteOutTest, UnreadableInTheMiddleOfALongOne) {
  start();
  rig_->write(0, 2 << 20, 1);
  rig_->write(2 << 20, 4096, 2);
  rig_->close();
  make_unreadable((1 << 20) + 4096);
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_THAT(done.bad_keys, ElementsAre(0u));
  EXPECT_EQ(rig_->device_value((1 << 20) + 4096), Rig::kBacking);
  EXPECT_EQ(rig_->device_value(2 << 20), 2);
}

TEST_F(WriteOutTest, AllBadIsNoWrite) {
  start({.data_crc = true});
  for (uint32_t i = 0; i < 4; i++) rig_->write(i * 8192, 4096, i + 1);
  for (uint32_t i = 0; i < 4; i++) damage(i * 8192);
  const auto done = write();
  EXPECT_THAT(done.bad_keys, ElementsAre(0u, 1u, 2u, 3u));
  EXPECT_EQ(done.ios, 0u);
  EXPECT_EQ(done.bytes, 0u);
}

TEST_F(WriteOutTest, BadKeysAreAscending) {
  start({.data_crc = true});
  for (uint32_t i = 0; i < 4; i++) rig_->write((3 - i) * 8192, 4096, i + 1);
  for (uint32_t i = 0; i < 4; i++) damage(i * 8192);
  EXPECT_THAT(write().bad_keys, ElementsAre(0u, 1u, 2u, 3u));
}

TEST_F(WriteOutTest, AnErrorOfTheDeviceIsReported) {
  start();
  for (uint32_t i = 0; i < 4 * WriteOut::kDepth; i++) rig_->write(i * 8192, 512, i);
  device_->set_error(ENOSPC);
  auto done = write();
  EXPECT_EQ(done.error, ENOSPC);
  EXPECT_EQ(written_, 0u);
  EXPECT_EQ(done.ios, 0u);
  EXPECT_LE(done.failed_ios, WriteOut::kDepth + WriteOut::kMostFailedInARow)
      << "no use in going on";
  EXPECT_EQ(done.failed.size() + done.untried.size(), 4u * WriteOut::kDepth);
  device_->set_error(0);
  done = write();
  EXPECT_EQ(done.error, 0) << "each write() is for itself";
  EXPECT_EQ(done.ios, 4u * WriteOut::kDepth);
}

// A queue that is not empty when it is destroyed would kill the test.
TEST_F(WriteOutTest, NothingIsInFlightAfterAnError) {
  start();
  for (uint32_t i = 0; i < 4 * WriteOut::kDepth; i++) rig_->write(i * 8192, 512, i);
  device_->set_error(EIO);
  device_->hold();
  device_->set_release_on_wait(true);
  EXPECT_EQ(write().error, EIO);
  EXPECT_EQ(device_->held(), 0u);
  out_.reset();
}

TEST_F(WriteOutTest, AWriteThatFailsIsRepeatedAlone) {
  start();
  for (uint32_t i = 0; i < 300; i++) rig_->write(i * 8192, 4096, i);
  std::map<uint64_t, uint32_t> failing;  // so often
  for (uint64_t i = 0; i < 300; i += 7) failing[i * 8192] = 1 + i % (WriteOut::kAttempts - 1);
  uint64_t expected = 0;
  for (const auto& [off, times] : failing) expected += times;
  device_->set_fate([&](BlockOp, const Extent& extent) {
    const auto at = failing.find(extent.off);
    if (at == failing.end() || at->second == 0) return MemoryDevice::Fate{};
    at->second--;
    return MemoryDevice::Fate{.error = EIO, .written_bytes = 512};
  });
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_THAT(done.failed, IsEmpty());
  EXPECT_THAT(done.untried, IsEmpty());
  EXPECT_EQ(done.failed_ios, expected);
  EXPECT_EQ(done.ios, 300u);
  EXPECT_EQ(done.bytes, 300u * 4096);
  EXPECT_EQ(written_, done.bytes);
  for (uint32_t i = 0; i < 300; i++)
    ASSERT_EQ(rig_->on_device({i * 8192, 4096}), Rig::filled(4096, i)) << i;
}

// Of long writes that many pieces went into, each piece is told, and parts of one.
TEST_F(WriteOutTest, TellsWhatItCouldNotWrite) {
  start();
  rig_->write(0, WriteOut::kWriteBytes, 1);
  rig_->write(1 << 20, (256 << 10) + 4096, 2);
  for (uint32_t i = 0; i < 3; i++) rig_->write((2 << 20) + i * 4096, 4096, 3 + i);
  rig_->write(3 << 20, 4096, 9);
  device_->set_fate([](BlockOp, const Extent& extent) {
    const bool bad = extent.off == (1 << 20) || extent.off == (2 << 20);
    return MemoryDevice::Fate{.error = bad ? ENOSPC : 0};
  });
  const auto done = write();
  EXPECT_EQ(done.error, ENOSPC);
  EXPECT_EQ(done.failed_ios, 2u * WriteOut::kAttempts);
  EXPECT_THAT(done.untried, IsEmpty());
  std::vector<Extent> left;
  for (const DirtyBatch::Piece& piece : done.failed) left.push_back(piece.extent);
  EXPECT_THAT(left, ElementsAre(Extent{1 << 20, 256 << 10}, Extent{2 << 20, 4096},
                                Extent{(2 << 20) + 4096, 4096}, Extent{(2 << 20) + 8192, 4096}));
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->device_value((1 << 20) + (256 << 10)), 2);
  EXPECT_EQ(rig_->device_value(3 << 20), 9);

  device_->set_fate(nullptr);
  device_->start_journal();
  EXPECT_EQ(out_->write(batch_, done.failed, {.write_bytes = WriteOut::kLeastBytes}).error, 0);
  EXPECT_EQ(writes().size(), 64u + 3) << "small ones, of no more than was left";
  EXPECT_EQ(rig_->device_value(1 << 20), 2);
  for (int i = 0; i < 3; i++) EXPECT_EQ(rig_->device_value((2 << 20) + i * 4096), 3 + i);
}

TEST_F(WriteOutTest, GivenUpItWaitsOnlyForWhatIsInFlight) {
  start();
  for (uint32_t i = 0; i < 4 * WriteOut::kDepth; i++) rig_->write(i * 8192, 512, i);
  on_written_ = [this] { out_->give_up(true); };
  device_->hold();
  device_->set_release_on_wait(true);
  const auto done = write();
  EXPECT_EQ(done.error, ECANCELED);
  EXPECT_LE(done.ios, WriteOut::kDepth + 1u);
  EXPECT_EQ(done.ios + done.untried.size(), 4u * WriteOut::kDepth);
  EXPECT_EQ(device_->held(), 0u);
  on_written_ = nullptr;
  out_->give_up(false);
  EXPECT_EQ(write().ios, 4u * WriteOut::kDepth);
}

// By another thread, at any moment: nothing is forgotten that was not written.
TEST_F(WriteOutTest, GivenUpOnAndOffItTellsAllThatItDidNotWrite) {
  start();
  constexpr uint64_t kBytes = 32 * 8192;
  for (uint32_t i = 0; i < 32; i++) rig_->write(i * 16384, 8192, i);
  ASSERT_EQ(write().bytes, kBytes);
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over) {
      out_->give_up(true);
      out_->give_up(false);
    }
  });
  for (int round = 0; round < 2000 && !HasFailure(); round++) {
    const auto done = out_->write(batch_, batch_.pieces(), {.depth = 1});
    uint64_t untried = 0;
    for (const DirtyBatch::Piece& piece : done.untried) untried += piece.extent.len;
    EXPECT_EQ(done.bytes + untried, kBytes) << round;
  }
  over = true;
  other.join();
}

class GivenToTheDevice : public WriteOutTest {
 protected:
  void start() {
    WriteOutTest::start();
    device_->set_on_change([this](const MemoryDevice::Change& change) {
      if (change.completed) {
        in_flight_--;
      } else {
        submitted_++;
        in_flight_++;
      }
    });
    on_written_ = [this] { at_completion_.push_back(submitted_); };
  }
  void TearDown() override {
    device_->set_on_change(nullptr);
    WriteOutTest::TearDown();
  }

  size_t submitted_ = 0, in_flight_ = 0;
  std::vector<size_t> at_completion_;  // of each: how many were submitted
};

// Each time may cost an exit to the hypervisor: small writes go to the device together, large ones
// at once. Nothing completes before the device is asked.
TEST_F(GivenToTheDevice, SmallWritesTogether) {
  start();
  constexpr uint32_t kPages = kHurriedDepth + 8;
  for (uint32_t i = 0; i < kPages; i++) rig_->write(i * 8192, 4096, i + 1);
  EXPECT_EQ(write().ios, kPages);
  std::vector<size_t> expected(kHurriedDepth, kHurriedDepth);
  expected.resize(kPages, kPages);
  EXPECT_EQ(at_completion_, expected);
}

TEST_F(GivenToTheDevice, LargeWritesAtOnce) {
  start();
  for (uint32_t i = 0; i < 3; i++)
    rig_->write(i * 2 * WriteOut::kWriteBytes, WriteOut::kWriteBytes, i + 1);
  EXPECT_EQ(write().ios, 3u);
  EXPECT_THAT(at_completion_, ElementsAre(1, 2, 3));
}

// Who is called does not keep the device waiting.
TEST_F(GivenToTheDevice, AllBeforeItWaits) {
  start();
  device_->hold();
  device_->set_release_on_wait(true);
  std::vector<size_t> before_wait;
  before_wait_ = [&] { before_wait.push_back(in_flight_); };
  for (uint32_t i = 0; i < 20; i++) rig_->write(i * 8192, 4096, i + 1);
  EXPECT_EQ(write(8).ios, 20u);
  EXPECT_THAT(before_wait, ElementsAre(8, 8, 4));
  before_wait_ = nullptr;
}

TEST_F(WriteOutTest, FlushSaysWhatTheDeviceSays) {
  start();
  EXPECT_EQ(flushed(*out_), 0);
  EXPECT_THAT(writes(), ElementsAre("flush"));
  device_->set_error(BlockOp::kFlush, EIO);
  rig_->write(0, 512, 1);
  EXPECT_EQ(write().error, 0);
  EXPECT_EQ(flushed(*out_), EIO);
  device_->set_error(0);
  EXPECT_EQ(flushed(*out_), 0);
}

}  // namespace
}  // namespace pcache
