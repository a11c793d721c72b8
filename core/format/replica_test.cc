// SPDX-License-Identifier: GPL-2.0-or-later
// Two-replica records: every pair of states, the wrap of `seq`, and where a write goes.
#include "format/replica.h"

#include <gtest/gtest.h>

#include "format/layout.h"
#include "testing/crash_states.h"
#include "testing/memory_pmem.h"

namespace pcache {
namespace {

using media::SegmentGen;
using media::TailPos;

enum class Was { kNew, kOld, kTorn, kUnreadable };
constexpr const char* kNames[] = {"newest", "stale", "torn", "unreadable"};

class Replica : public ::testing::Test {
 protected:
  static constexpr uint64_t kStride = 4096;
  static constexpr uint32_t kNewest = 77, kStale = 66;

  static ReplicaPlace place(int first_slot = 1) { return {MediaOff{8192}, kStride, first_slot}; }
  static TailPos record(uint32_t value, uint8_t seq) {
    TailPos record{};
    record.seg_off = value;
    record.header.seq = seq;
    record.header.crc = record_crc(record);
    return record;
  }
  void put(int slot, const TailPos& record) { memory_.poke(at(slot), record); }
  void put(int slot, Was state, uint8_t newest_seq) {
    if (state == Was::kUnreadable) return memory_.make_unreadable(at(slot));
    TailPos r = state == Was::kOld ? record(kStale, static_cast<uint8_t>(newest_seq - 1))
                                   : record(kNewest, newest_seq);
    if (state == Was::kTorn) r.seg_off ^= 1;
    put(slot, r);
  }
  static MediaOff at(int slot) { return MediaOff{8192 + slot * kStride}; }
  static TailPos value(uint32_t v) {
    TailPos record{};
    record.seg_off = v;
    return record;
  }

  MemoryPmem memory_{64 << 10};
};

TEST_F(Replica, EveryPairOfStates) {
  constexpr int kNone = -1;
  using enum Was;
  const struct {
    Was slot_0, slot_1;
    int newest;  // the slot that is to win
  } rows[] = {
      {kNew, kOld, 0},
      {kOld, kNew, 1},
      {kNew, kTorn, 0},
      {kTorn, kNew, 1},
      {kNew, kUnreadable, 0},
      {kUnreadable, kNew, 1},
      {kOld, kTorn, 0},
      {kTorn, kOld, 1},
      {kOld, kUnreadable, 0},
      {kUnreadable, kOld, 1},
      {kTorn, kTorn, kNone},
      {kTorn, kUnreadable, kNone},
      {kUnreadable, kTorn, kNone},
      {kUnreadable, kUnreadable, kNone},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(std::string(kNames[int(row.slot_0)]) + ", " + kNames[int(row.slot_1)]);
    MemoryPmem& memory = memory_;
    put(0, row.slot_0, 9);
    put(1, row.slot_1, 9);
    Replicated<TailPos> replicated(place());
    const auto loaded = replicated.load(memory.pmem());
    const Was states[2] = {row.slot_0, row.slot_1};
    for (int i = 0; i < 2; i++)
      EXPECT_EQ(replicated.state(i), states[i] == kUnreadable ? ReplicaState::kUnreadable
                                     : states[i] == kTorn     ? ReplicaState::kInvalid
                                                              : ReplicaState::kValid);
    ASSERT_EQ(loaded.has_value(), row.newest != kNone);
    if (loaded) {
      EXPECT_EQ(loaded->seg_off, states[row.newest] == kNew ? kNewest : kStale);
    }

    // The first write after a load leaves the newest valid replica alone (hazard
    // newest-replica-overwritten).
    const TailPos before = row.newest == kNone ? TailPos{} : memory.peek<TailPos>(at(row.newest));
    EXPECT_TRUE(replicated.write(memory.pmem(), value(88)));
    if (row.newest != kNone) {
      EXPECT_EQ(memcmp(&before, memory.data() + at(row.newest).v, sizeof before), 0);
      EXPECT_EQ(replicated.newest(), 1 - row.newest);
    }
    Replicated<TailPos> again(place());
    const auto reloaded = again.load(memory.pmem());
    ASSERT_TRUE(reloaded);
    EXPECT_EQ(reloaded->seg_off, 88u);
    for (int slot : {0, 1})
      EXPECT_TRUE(memory.pmem().store(at(slot), &before, sizeof before));  // mends the pages
  }
}

TEST_F(Replica, NewestAtEverySequenceNumberInBothOrders) {
  for (int seq = 0; seq < 256; seq++)
    for (const int newer : {0, 1}) {
      put(newer, record(kNewest, static_cast<uint8_t>(seq + 1)));  // 255 -> 0 among them
      put(1 - newer, record(kStale, static_cast<uint8_t>(seq)));
      Replicated<TailPos> replicated(place());
      const auto loaded = replicated.load(memory_.pmem());
      ASSERT_TRUE(loaded);
      ASSERT_EQ(loaded->seg_off, kNewest) << "seq " << seq << ", newer in slot " << newer;
      ASSERT_EQ(replicated.seq(), static_cast<uint8_t>(seq + 1));
    }
}

TEST_F(Replica, WritesAlternateThroughTheWrapOfTheSequence) {
  Replicated<TailPos> replicated(place());
  for (uint32_t i = 1; i <= 600; i++) {
    EXPECT_TRUE(replicated.write(memory_.pmem(), value(i)));
    Replicated<TailPos> reader(place());
    const auto loaded = reader.load(memory_.pmem());
    ASSERT_TRUE(loaded);
    ASSERT_EQ(loaded->seg_off, i);
    ASSERT_EQ(reader.newest(), i % 2);  // first_slot 1
    ASSERT_EQ(reader.seq(), static_cast<uint8_t>(i));
  }
}

TEST_F(Replica, TheFirstRecordOfAFormatGoesToTheKernelsSlotWithSequenceOne) {
  for (const int first_slot : {0, 1}) {
    MemoryPmem memory(64 << 10);
    Replicated<TailPos> replicated(place(first_slot));
    EXPECT_TRUE(replicated.write(memory.pmem(), value(5)));
    EXPECT_EQ(memory.peek<TailPos>(at(first_slot)).header.seq, 1);
    EXPECT_EQ(memory.peek<TailPos>(at(1 - first_slot)).header.crc, 0u);
  }
}

TEST_F(Replica, LoadingNothingKeepsTheFirstSlotRule) {
  for (const int first_slot : {0, 1}) {
    MemoryPmem memory(64 << 10);
    Replicated<TailPos> replicated(place(first_slot));
    EXPECT_FALSE(replicated.load(memory.pmem()));
    EXPECT_TRUE(replicated.write(memory.pmem(), value(5)));
    EXPECT_EQ(replicated.newest(), first_slot);
  }
}

TEST_F(Replica, GarbageInVersionAndResIsAcceptedAndNotWrittenAgain) {
  TailPos r = record(kNewest, 4);
  r.header.version = 0xab;
  r.header.res = 0xcdef;
  r.header.crc = record_crc(r);
  put(0, r);
  Replicated<TailPos> replicated(place());
  auto loaded = replicated.load(memory_.pmem());
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->seg_off, kNewest);
  EXPECT_TRUE(replicated.write(memory_.pmem(), *loaded));  // read, change, write
  const auto written = memory_.peek<TailPos>(at(1));
  EXPECT_EQ(written.header.version, 0);
  EXPECT_EQ(written.header.res, 0);
  EXPECT_EQ(written.header.seq, 5);
  EXPECT_EQ(written.header.crc, record_crc(written));
}

TEST_F(Replica, ACrashInAWriteLeavesTheOldRecordOrTheNew) {
  put(0, record(kNewest, 255));
  put(1, record(kStale, 254));
  memory_.checkpoint();
  Replicated<TailPos> replicated(place());
  ASSERT_TRUE(replicated.load(memory_.pmem()));
  EXPECT_TRUE(replicated.write(memory_.pmem(), value(88)));
  memory_.pmem().fence();
  int old_seen = 0, new_seen = 0;
  for_each_crash_state(
      memory_.journal(), {}, [&](std::span<const KeptStore> kept, const std::string& what) {
        const auto image = memory_.crash_image(kept);
        Replicated<TailPos> reader(place());
        const auto loaded = reader.load(image->pmem());
        ASSERT_TRUE(loaded) << what;
        (loaded->seg_off == 88 ? new_seen : old_seen)++;
        EXPECT_TRUE(loaded->seg_off == 88 || loaded->seg_off == kNewest) << what << loaded->seg_off;
      });
  EXPECT_GT(old_seen, 0);
  EXPECT_GT(new_seen, 0);
}

// If it were stored over the newest one, and torn, no replica would be left.
TEST(ReplicaBadPage, ABadPageUnderTheOlderOneLeavesTheNewestAlone) {
  MemoryPmem memory(64 << 10);
  const ReplicaPlace place{MediaOff{8192}, 4096, 1};
  Replicated<SegmentGen> record(place);
  SegmentGen value{};
  value.gen = 5;
  ASSERT_TRUE(record.write(memory.pmem(), value));  // to slot 1
  memory.make_bad(MediaOff{8192});
  for (uint64_t gen = 6; gen < 9; gen++) {
    value.gen = gen;
    EXPECT_FALSE(record.write(memory.pmem(), value));
    Replicated<SegmentGen> again(place);
    const auto loaded = again.load(memory.pmem());
    ASSERT_TRUE(loaded.has_value());
    EXPECT_EQ(loaded->gen, 5u);
    EXPECT_EQ(again.newest(), 1);
    EXPECT_FALSE(again.write(memory.pmem(), value)) << "nor as the first write after a load";
  }
}

}  // namespace
}  // namespace pcache
