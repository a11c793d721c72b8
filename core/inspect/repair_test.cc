// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/repair.h"

#include <fcntl.h>

#include <array>
#include <cstdlib>
#include <fstream>

#include "inspect/survey_for_test.h"
#include "testing/crash_states.h"

namespace pcache {
namespace {

using media::kKeyClean;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class RepairTest : public ImageTest {
 protected:
  explicit RepairTest(const FormatOptions& options = {}) : ImageTest(options) {}

  RepairPlan plan(const BackingReader* backing = nullptr) {
    const CheckReport report = check();
    return plan_repair(image_.pmem(), report, backing);
  }
  // Repairs. Afterwards, and after a crash at any point, the image attaches and has `keys` keys.
  void repair(uint64_t keys) {
    const RepairPlan steps = plan();
    EXPECT_THAT(steps.left, IsEmpty());
    ASSERT_GT(steps.steps.size(), 0u);
    image_.memory().checkpoint();
    ASSERT_TRUE(apply_repair(image_.pmem(), steps).ok());
    EXPECT_TRUE(all_durable(image_.memory().journal()));
    for_each_crash_state(image_.memory().journal(), {}, [&](auto kept, const std::string& what) {
      const auto crashed = image_.memory().crash_image(kept);
      CheckOptions options;
      options.backing = BackingIdentity{"test", kLogicalBytes};
      const CheckReport report = check_image(crashed->pmem(), options);
      EXPECT_TRUE(report.attaches) << what;
      EXPECT_EQ(report.log.keys, keys) << what;
    });
    EXPECT_EQ(check().exit_code(), 0);
    EXPECT_THAT(plan().steps, IsEmpty()) << "there is nothing left";
  }

  // One replica is torn. A process has stored `record` in the other one, for the first time, and
  // was killed; a crash of the repair leaves one of them.
  template <typename Record>
  void repair_the_torn(const ReplicaPlace& place, const Record& record) {
    MemoryPmem& memory = image_.memory();
    using Bytes = std::array<std::byte, sizeof(Record)>;
    Bytes torn;
    torn.fill(std::byte{0x5a});
    const auto slot = [&place](int n) {
      return place.base + static_cast<uint64_t>(n) * place.stride;
    };
    memory.poke(slot(1 - place.first_slot), torn);
    memory.poke(slot(place.first_slot), Record{});
    memory.checkpoint();
    Replicated<Record> replicas(place);
    EXPECT_FALSE(replicas.load(image_.pmem()));
    EXPECT_TRUE(replicas.write(image_.pmem(), record));
    memory.kill_process();
    const RepairPlan steps = plan();
    EXPECT_THAT(steps.steps, SizeIs(1));
    ASSERT_TRUE(apply_repair(image_.pmem(), steps).ok());
    size_t states = 0;
    for_each_crash_state(memory.journal(), {}, [&](auto kept, const std::string& what) {
      const auto crashed = memory.crash_image(kept);
      if (crashed->template peek<Bytes>(slot(1 - place.first_slot)) == torn) return;  // not begun
      states++;
      EXPECT_TRUE(Replicated<Record>(place).load(crashed->pmem())) << what;
    });
    EXPECT_GT(states, 1u);
  }
};

TEST_F(RepairTest, ASoundImageNeedsNone) {
  image_.kset({}, {page(0, {kA, 0})});
  const RepairPlan steps = plan();
  EXPECT_THAT(steps.steps, IsEmpty());
  EXPECT_THAT(steps.left, IsEmpty());
}

TEST_F(RepairTest, TornReplicas) {
  image_.kset({}, {page(0, {kA, 0})});
  image_.dirty_tail({});
  image_.key_tail({});
  image_.generation(kB, 7);
  for (const ReplicaPlace& place :
       {dirty_tail_place(), key_tail_place(), segment_info_place(4), segment_gen_place(3)})
    image_.memory().flip_bit(place.base + place.stride + 15);
  repair(1);
}

TEST_F(RepairTest, WhatServesIsMadeDurableFirst) {
  const auto info = *Replicated<media::SegmentInfo>(segment_info_place(4)).load(image_.pmem());
  repair_the_torn(segment_info_place(4), info);
  repair_the_torn(segment_gen_place(3), media::SegmentGen{{}, 7});
  repair_the_torn(key_tail_place(), media::TailPos{});
}

TEST_F(RepairTest, GcPercentOutOfRange) {
  Replicated<media::CacheInfo> record(cache_info_place());
  media::CacheInfo info = *record.load(image_.pmem());
  info.flags |= media::kInfoGcMask << media::kInfoGcShift;
  EXPECT_TRUE(record.write(image_.pmem(), info));
  image_.pmem().fence();
  repair(0);
  EXPECT_EQ(check().frame.frame.info.gc_percent, media::kGcPercentMax);
}

TEST_F(RepairTest, ATornEnd) {
  const CachePos end = image_.kset({}, {page(0, {kA, 0})});
  image_.memory().poke(image_.off(end), media::KsetHeader{1, 2, media::kKsetMagic, 4});
  repair(1);
}

TEST_F(RepairTest, ATornLink) {
  image_.memory().flip_bit(segment_info_place(5).base + 8);
  repair(0);
}

TEST_F(RepairTest, DirtyTailThatFellBackBehindKeyTail) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  image_.kset(second, {page(1, {kA, 4096})});
  image_.dirty_tail(second);
  image_.key_tail(second);
  image_.memory().flip_bit(dirty_tail_place().base + 16 + 15);
  repair(1);
}

TEST_F(RepairTest, TwoKeysOfOnePlaceAreNotTouched) {
  image_.kset({}, {page(1, {kA, 4096}, kKeyClean), page(2, {kA, 4096})});
  image_.memory().flip_bit(segment_info_place(4).base + 8);
  for (const RepairStep& step : plan().steps) EXPECT_LE(step.bytes.size(), 24u) << step.what;
}

TEST_F(RepairTest, ALostGeneration) {
  image_.generation(kA, 3);
  image_.kset({}, {page(0, {kA, 0}, 0, 3), page(1, {kA, 4096}, 0, 3)});
  image_.memory().flip_bit(segment_gen_place(kA.v).base + 15);
  repair(2);
}

TEST_F(RepairTest, AnImageThatDoesNotAttachIsLeftAlone) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0})});
  image_.kset(second, {page(1, {kA, 4096})});
  image_.memory().flip_bit(image_.off({}) + sizeof(media::KsetHeader));
  const RepairPlan steps = plan();
  EXPECT_THAT(steps.steps, IsEmpty());
  EXPECT_THAT(steps.left, SizeIs(1));
}

class RepairDataTest : public RepairTest {
 protected:
  RepairDataTest() : RepairTest(FormatOptions{true}) {
    char name[] = "/tmp/pcache-repair-XXXXXX";
    fd_ = mkstemp(name);
    unlink(name);
    EXPECT_EQ(ftruncate(fd_, kLogicalBytes), 0);
    BackingFile file;
    file.fd = UniqueFd(fd_);
    file.size_bytes = kLogicalBytes;
    backing_.emplace(std::move(file));
  }
  void on_device(uint64_t page, std::byte value) {
    const std::vector<std::byte> bytes(kPageBytes, value);
    EXPECT_EQ(pwrite(fd_, bytes.data(), kPageBytes, static_cast<off_t>(page * kPageBytes)),
              kPageBytes);
  }
  int fd_ = -1;  // of backing_
  std::optional<BackingReader> backing_;
};

TEST_F(RepairDataTest, CleanDataComesFromTheDevice) {
  image_.kset({}, {page(1, {kA, 4096}, kKeyClean), page(2, {kA, 8192})});
  on_device(1, letter({kA, 4096}));
  image_.memory().flip_bit(image_.off({kA, 4096 + 100}));
  EXPECT_THAT(plan().left, SizeIs(1)) << "the device is not at hand";
  const RepairPlan steps = plan(&*backing_);
  EXPECT_THAT(steps.left, IsEmpty());
  ASSERT_THAT(steps.steps, SizeIs(1));
  ASSERT_TRUE(apply_repair(image_.pmem(), steps).ok());
  EXPECT_EQ(check().exit_code(), 0);
}

TEST_F(RepairDataTest, NewerDataOnTheDeviceIsNotTaken) {
  image_.kset({}, {page(1, {kA, 4096}, kKeyClean)});
  on_device(1, std::byte{99});
  image_.memory().flip_bit(image_.off({kA, 4096 + 100}));
  const RepairPlan steps = plan(&*backing_);
  EXPECT_THAT(steps.steps, IsEmpty());
  EXPECT_THAT(steps.left, testing::ElementsAre(HasSubstr("attach drops it by itself")));
}

TEST_F(RepairDataTest, DirtyDataIsNotMadeUp) {
  image_.kset({}, {page(1, {kA, 4096})});
  on_device(1, letter({kA, 4096}));
  image_.memory().flip_bit(image_.off({kA, 4096 + 100}));
  const RepairPlan steps = plan(&*backing_);
  EXPECT_THAT(steps.steps, IsEmpty());
  EXPECT_THAT(steps.left, testing::ElementsAre(HasSubstr("exists nowhere else")));
}

}  // namespace
}  // namespace pcache
