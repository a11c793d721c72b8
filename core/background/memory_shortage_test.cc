// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback that finds no memory, and what says that there is some again.
#include "background/worker_for_test.h"
#include "testing/shortage/failing_memory.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class WritebackWithoutMemory : public WorkerTest {
 protected:
  static constexpr int kOld = 1, kNew = 2;

  void start() {
    WorkerTest::start();
    rig_->write(0, 4096, kOld);
    rig_->close();
  }
  void advance_without_memory(milliseconds by) {
    const FailingMemory failing(0);
    advance(by);
  }
  uint64_t flushes() const { return rig_->writeback->counters().flushes.load(); }
  uint64_t superseded() const { return rig_->writeback->counters().superseded_keys.load(); }
};

TEST_F(WritebackWithoutMemory, IsTriedAgainUntilThereIsSome) {
  start();
  advance_without_memory(kInterval);
  ASSERT_EQ(errors(), 1u);
  EXPECT_TRUE(worker_->state().failing);
  advance_without_memory(Worker::kFirstBackoff);
  EXPECT_EQ(errors(), 2u);
  EXPECT_EQ(worker_->state().backoff, 2 * Worker::kFirstBackoff);
  advance(2 * Worker::kFirstBackoff);
  EXPECT_FALSE(worker_->state().failing);
  EXPECT_EQ(rig_->device_value(0), kOld);
  EXPECT_THAT(rig_->lines.lines,
              ElementsAre(HasSubstr("out of memory"), HasSubstr("there is memory again")));
}

// Else a hot set, which needs no device, would be written as long as it lasts.
TEST_F(WritebackWithoutMemory, HasSomeWhenItPassesWhatIsSuperseded) {
  start();
  advance_without_memory(kInterval);
  ASSERT_EQ(errors(), 1u);
  rig_->write(0, 4096, kNew);  // its kset is open
  advance(Worker::kFirstBackoff);
  EXPECT_EQ(superseded(), 1u);
  EXPECT_EQ(flushes(), 0u);
  EXPECT_FALSE(worker_->state().failing);
  EXPECT_EQ(worker_->state().backoff, milliseconds(0));
  EXPECT_THAT(rig_->lines.lines,
              ElementsAre(HasSubstr("out of memory"), HasSubstr("there is memory again")));
}

TEST_F(WritebackWithoutMemory, SaysNothingAboutADeviceThatHadFailed) {
  start();
  device_->set_error(EIO);
  advance(kInterval);
  ASSERT_EQ(errors(), 1u);
  advance_without_memory(Worker::kFirstBackoff);
  ASSERT_EQ(errors(), 2u);
  rig_->write(0, 4096, kNew);
  advance(2 * Worker::kFirstBackoff);
  ASSERT_EQ(superseded(), 1u);
  EXPECT_TRUE(worker_->state().failing);
  device_->set_error(0);
  advance(kInterval);
  EXPECT_FALSE(worker_->state().failing);
  EXPECT_EQ(rig_->device_value(0), kNew);
  EXPECT_THAT(rig_->lines.lines, ElementsAre(HasSubstr("memory device"), HasSubstr("works again")));
}

}  // namespace
}  // namespace pcache
