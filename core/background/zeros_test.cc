// SPDX-License-Identifier: GPL-2.0-or-later
// Keys of zeros on their way: to the backing device, out of the index, through a replay.
#include "background/writeback_for_test.h"

namespace pcache {
namespace {

using media::kKeyHole;
using media::kKeyZeros;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ZerosTest : public WritebackTest, public ::testing::WithParamInterface<bool> {
 protected:
  void begin(RigOptions o = {}) {
    o.data_crc = GetParam();
    start(o);
  }
  void drain() {
    rig_->close();
    rig_->write_back();
  }
  bool all_zeros(uint64_t off, uint64_t len) const {
    const Bytes bytes = rig_->on_device({off, len});
    return bytes == Bytes(len);
  }
};

TEST_P(ZerosTest, BecomeOneHole) {
  begin();
  rig_->write(0, 4096, 7);
  rig_->zeros(4096, 6 << 20);
  rig_->write((6 << 20) + 4096, 4096, 8);
  drain();
  EXPECT_THAT(done(), ElementsAre("0+8", "hole 8+12288", "12296+8", "flush"));
  EXPECT_TRUE(all_zeros(4096, 6 << 20));
  EXPECT_EQ(counters().zeroes.load(), 1u);
  EXPECT_EQ(counters().hole_bytes.load(), 6u << 20);
  EXPECT_EQ(counters().written_bytes.load(), 8192u) << "of data";
}

TEST_P(ZerosTest, OfAWriteTheDeviceKeepsItsRoom) {
  begin();
  rig_->zeros(0, 4096, kKeyZeros, 4096);
  rig_->zeros(4096, 4096, kKeyZeros | kKeyHole, 4096);
  drain();
  EXPECT_THAT(done(), ElementsAre("zero 0+8", "hole 8+8", "flush"));
}

TEST_P(ZerosTest, OfTheNewestDataOfASectorAreMade) {
  begin();
  rig_->write(0, 16384, 1);
  rig_->zeros(4096, 8192);
  rig_->write(8192, 512, 2);
  drain();
  EXPECT_THAT(done(), ElementsAre("0+8", "hole 8+8", "16+1", "hole 17+7", "24+8", "flush"));
  EXPECT_EQ(rig_->device_value(8192), 2);
}

TEST_P(ZerosTest, LeaveTheIndexWhenTheDeviceHasThem) {
  begin();
  rig_->zeros(0, 8192);
  EXPECT_EQ(rig_->mapped(0, 8192), "DDDDDDDDDDDDDDDD");
  rig_->write(4096, 512, 3);
  drain();
  EXPECT_EQ(rig_->mapped(0, 8192), "........C.......");
  EXPECT_EQ(rig_->value(0), 0) << "from the device";
  EXPECT_EQ(rig_->value(4096), 3);
  EXPECT_EQ(rig_->index->dirty_bytes(), 0u);
  rig_->reclaim_all();
  EXPECT_EQ(rig_->table->counts().data, 1u) << "the head's";
}

// Their place serves keys of other ranges, too, and each has its own entry in the index.
TEST_P(ZerosTest, NewerDataOfTheirRangeStays) {
  begin();
  rig_->zeros(0, 1 << 20);
  rig_->close();
  rig_->write(64 << 10, 64 << 10, 5);
  drain();
  rig_->reclaim_all();
  EXPECT_EQ(rig_->value(64 << 10), 5);
  EXPECT_EQ(rig_->value(0), 0);
  EXPECT_TRUE(all_zeros(128 << 10, 896 << 10));
}

TEST_P(ZerosTest, ADeviceWithoutHolesGetsZeros) {
  begin();
  device_->set_error(BlockOp::kPunchHole, EOPNOTSUPP);
  rig_->zeros(0, 1 << 20);
  drain();
  EXPECT_THAT(done(), ElementsAre("zero 0+2048", "flush"));
  rig_->zeros(1 << 20, 4096, kKeyZeros | kKeyHole, 4096);
  drain();
  EXPECT_THAT(done(), ElementsAre("zero 0+2048", "flush", "zero 2048+8", "flush")) << "at once";
  EXPECT_TRUE(all_zeros(0, (1 << 20) + 4096));
  EXPECT_EQ(counters().failed_writes.load(), 0u);
}

TEST_P(ZerosTest, ADeviceWithoutAnyIsWrittenZeros) {
  begin();
  device_->set_error(BlockOp::kPunchHole, EOPNOTSUPP);
  device_->set_error(BlockOp::kZero, EOPNOTSUPP);
  rig_->write(0, 4096, 1);
  rig_->zeros(4096, 1 << 20);
  rig_->zeros(8 << 20, 8192, kKeyZeros, 8192);
  drain();
  EXPECT_TRUE(all_zeros(4096, 1 << 20));
  EXPECT_TRUE(all_zeros(8 << 20, 8192));
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(counters().zeroed_bytes.load(), 0u);
  EXPECT_EQ(counters().written_bytes.load(), 4096u + (1 << 20) + 8192);
  EXPECT_EQ(counters().failed_writes.load(), 0u);
  EXPECT_EQ(rig_->index->dirty_bytes(), 0u);
}

TEST_P(ZerosTest, AFailingDeviceGetsThemLater) {
  begin();
  device_->set_error(EIO);
  rig_->write(0, 4096, 1);
  rig_->zeros(4096, 1 << 20);
  rig_->close();
  EXPECT_THAT(step_error(), HasSubstr("1052672 bytes of its batch are left"));
  EXPECT_EQ(rig_->mapped(4096, 512), "D");
  device_->set_error(0);
  drain();
  EXPECT_TRUE(all_zeros(4096, 1 << 20));
  EXPECT_EQ(rig_->device_value(0), 1);
}

// A device may have the request, and fail it.
TEST_P(ZerosTest, AHoleThatFailsIsWrittenAsZeros) {
  for (const int error : {EIO, EINVAL, ENOSPC}) {
    begin();
    device_->set_error(BlockOp::kPunchHole, error);
    device_->set_error(BlockOp::kZero, error);
    rig_->zeros(0, 1 << 20);
    drain();
    EXPECT_TRUE(all_zeros(0, 1 << 20));
    EXPECT_EQ(counters().written_bytes.load(), 1u << 20);
    device_->set_error(0);
    rig_->zeros(0, 1 << 20);
    drain();
    EXPECT_EQ(counters().hole_bytes.load(), 1u << 20) << "the next is a hole again";
  }
}

TEST_P(ZerosTest, WhereThereIsNoRoomForZerosAHoleWillDo) {
  begin();
  device_->set_error(BlockOp::kZero, ENOSPC);
  rig_->zeros(0, 1 << 20, kKeyZeros);
  drain();
  EXPECT_THAT(done(), ElementsAre("hole 0+2048", "flush"));
}

// A device that has to write them cannot be asked to give a request up.
TEST_P(ZerosTest, OfZerosFewAreInFlightAndNoneIsLong) {
  RigOptions o;
  o.logical_bytes = o.batch_bytes = uint64_t{1} << 30;
  begin(o);
  rig_->zeros(0, 512 << 20, kKeyZeros, 1 << 20);
  rig_->close();
  device_->hold();
  device_->set_release_on_wait(true);
  rig_->write_back();
  EXPECT_EQ(device_->most_held(), size_t{WriteOut::kMostZeroing});
  EXPECT_EQ(counters().zeroes.load(), (512u << 20) / WriteOut::kZeroBytes);
}

// Where each hole has to be written, a batch is no larger than one of data.
TEST_P(ZerosTest, FillABatchOfADeviceWithoutHoles) {
  RigOptions o;
  o.batch_bytes = 1 << 20;
  begin(o);
  device_->set_error(BlockOp::kPunchHole, EOPNOTSUPP);
  rig_->zeros(0, 4096, kKeyZeros | kKeyHole, 4096);
  drain();
  for (uint64_t at = 0; at < 4 << 20; at += 512 << 10) {
    rig_->zeros(at, 512 << 10);
    rig_->close();
  }
  const uint64_t before = counters().batches.load();
  drain();
  EXPECT_EQ(counters().batches.load() - before, 4u);
}

// What the device has refused to make is written then, and that fails.
TEST_P(ZerosTest, AFailureOfWhatIsWrittenInsteadIsToldByPieces) {
  begin();
  device_->set_error(BlockOp::kPunchHole, EOPNOTSUPP);
  device_->set_error(BlockOp::kZero, EOPNOTSUPP);
  device_->set_fate([](BlockOp op, const Extent& extent) {
    return MemoryDevice::Fate{.error = op == BlockOp::kWrite && extent.off < 512 << 10 ? EIO : 0};
  });
  rig_->zeros(0, 1 << 20);
  rig_->close();
  EXPECT_THAT(step_error(), HasSubstr("writing back failed at 0+"));
  device_->set_fate(nullptr);
  drain();
  EXPECT_TRUE(all_zeros(0, 1 << 20));
}

TEST_P(ZerosTest, GivenUpWhileTheyAreWritten) {
  begin();
  device_->set_error(BlockOp::kPunchHole, EOPNOTSUPP);
  device_->set_fate([this](BlockOp op, const Extent&) {
    if (op == BlockOp::kZero) rig_->writeback->give_up(true);
    return MemoryDevice::Fate{.error = op == BlockOp::kZero ? EOPNOTSUPP : 0};
  });
  rig_->zeros(0, 1 << 20);
  rig_->close();
  EXPECT_THAT(step_error(), HasSubstr("1048576 bytes of its batch are left"));
  rig_->writeback->give_up(false);
  drain();
  EXPECT_TRUE(all_zeros(0, 1 << 20));
}

// Each copy would take a place of its own.
TEST_P(ZerosTest, AreNotMoved) {
  begin();
  rig_->write(0, 4096, 1);
  rig_->zeros(1 << 20, 1 << 20);
  rig_->close();
  Writeback::Size size = rig_->batch();
  size.live = LiveData::kMoveAnyhow;
  const auto stepped = rig_->writeback->step(rig_->log->mark(), size);
  ASSERT_TRUE(stepped.ok() && stepped.value());
  EXPECT_EQ(rig_->writeback->moved().moved_bytes.load(), 4096u);
  EXPECT_THAT(done(), ElementsAre("hole 2048+2048", "flush"));
  EXPECT_EQ(rig_->value(0), 1);
  EXPECT_TRUE(rig_->dirty(0));
}

TEST_P(ZerosTest, ThatAreSupersededAreNotMade) {
  begin();
  rig_->zeros(0, 8192, kKeyZeros | kKeyHole, 8192);
  rig_->write(0, 8192, 4);
  drain();
  EXPECT_THAT(done(), ElementsAre("0+16", "flush"));
  EXPECT_EQ(counters().zeroes.load(), 0u);
}

// A batch takes what it may of data, and zeros besides: each batch costs a flush.
TEST_P(ZerosTest, DoNotFillABatch) {
  RigOptions o;
  o.batch_bytes = 1 << 20;
  o.logical_bytes = 512 << 20;
  begin(o);
  rig_->zeros(0, 256 << 20);
  drain();
  EXPECT_THAT(done(), ElementsAre("hole 0+524288", "flush"));
}

// What comes free is their place, and not what they name.
TEST_P(ZerosTest, GiveNoCredit) {
  uint64_t told = 0;
  RigOptions o;
  o.writeback.progress = [&told](uint64_t bytes) { told += bytes; };
  begin(o);
  rig_->write(0, 4096, 1);
  rig_->zeros(1 << 20, 16 << 20);
  drain();
  EXPECT_EQ(told, 4096u);
}

// Under backing_order=strict what comes before a barrier is there before what comes behind it.
TEST_P(ZerosTest, KeepTheOrderOfBarriers) {
  begin();
  rig_->zeros(0, 4096, kKeyZeros | kKeyHole, 4096);
  rig_->flush();
  rig_->write(0, 4096, 2);
  rig_->flush();
  rig_->zeros(0, 4096, kKeyZeros | kKeyHole, 4096);
  rig_->flush();
  drain();
  EXPECT_THAT(done(), ElementsAre("hole 0+8", "flush", "0+8", "flush", "hole 0+8", "flush"));
}

TEST_P(ZerosTest, AreThereAgainAfterACrash) {
  begin();
  rig_->write(0, 16384, 1);
  rig_->zeros(4096, 4096, kKeyZeros | kKeyHole, 4096);
  rig_->close();
  attach();
  EXPECT_EQ(rig_->mapped(4096, 512), "D");
  EXPECT_EQ(rig_->value(4096), 0);
  EXPECT_EQ(rig_->value(0), 1);
  drain();
  EXPECT_TRUE(all_zeros(4096, 4096));
}

// The log has an older key of the range still, and what it names must not come back.
TEST_P(ZerosTest, ThatAreOnTheDeviceLeaveNothingOlderBehindACrash) {
  begin();
  rig_->write(0, 16384, 1);
  rig_->zeros(4096, 4096, kKeyZeros | kKeyHole, 4096);
  drain();
  attach();
  EXPECT_EQ(rig_->mapped(0, 16384), "CCCCCCCC........CCCCCCCCCCCCCCCC");
  EXPECT_EQ(rig_->value(4096), 0);
  rig_->reclaim_all();
  EXPECT_EQ(rig_->value(4096), 0);
}

TEST_P(ZerosTest, AnyCrashInAStepLeavesThem) {
  begin();
  rig_->write(0, 16384, 1);
  rig_->zeros(4096, 8192, kKeyZeros | kKeyHole, 4096);
  rig_->write(8192, 512, 2);
  rig_->close();
  image_->memory().checkpoint();
  rig_->write_back();
  rig_->reclaim_all();
  for_each_crash({}, [](Rig& rig) {
    EXPECT_EQ(rig.value(0), 1);
    EXPECT_EQ(rig.value(4096), 0);
    EXPECT_EQ(rig.value(8192), 2);
    EXPECT_EQ(rig.value(8704), 0);
    EXPECT_EQ(rig.value(12288), 1);
  });
}

INSTANTIATE_TEST_SUITE_P(, ZerosTest, ::testing::Bool(),
                         [](auto& info) { return info.param ? "crc_on" : "crc_off"; });

}  // namespace
}  // namespace pcache
