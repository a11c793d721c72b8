// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/writeback.h"

#include <numeric>
#include <random>

#include "background/writeback_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(WritebackTest, NothingToDo) {
  start();
  EXPECT_FALSE(rig_->writeback->behind(rig_->log->mark()));
  EXPECT_FALSE(step().value());
  EXPECT_TRUE(image_->memory().journal().empty());
  EXPECT_THAT(done(), IsEmpty());
}

TEST_F(WritebackTest, DataGoesToTheDeviceAndIsCleanThen) {
  start();
  rig_->write(0, 4096, 1);
  rig_->write(40960, 1024, 2);
  EXPECT_FALSE(step().value()) << "open ksets are not in the log";
  rig_->flush();
  EXPECT_TRUE(rig_->writeback->behind(rig_->log->mark()));
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+8", "80+2", "flush"));
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
  EXPECT_EQ(rig_->mapped(40960, 1536), "CC.");
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->device_value(40960), 2);
  EXPECT_EQ(dirty_tail(), rig_->log->head());
  EXPECT_FALSE(rig_->writeback->behind(rig_->log->mark()));
  EXPECT_EQ(rig_->writeback->passed_dirty_bytes(), 5120u);
  EXPECT_FALSE(step().value());
  EXPECT_EQ(counters().batches, 1u);
  EXPECT_EQ(counters().keys, 2u);
  EXPECT_EQ(counters().appended_bytes, 5120u);
  EXPECT_EQ(counters().writes, 2u);
  EXPECT_EQ(counters().written_bytes, 5120u);
}

TEST_F(WritebackTest, DirtyTailIsDurable) {
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  rig_->write_back();
  attach();
  EXPECT_EQ(rig_->replayed.dirty_keys, 0u);
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
  EXPECT_FALSE(rig_->writeback->behind(rig_->log->mark()));
}

TEST_F(WritebackTest, GoesNoFurtherThanItWasAsked) {
  start();
  rig_->write(0, 512, 1);
  rig_->close();
  const LogMark until = rig_->log->mark();
  rig_->write(4096, 512, 2);
  rig_->close();
  EXPECT_TRUE(rig_->writeback->step(until, rig_->batch()).value());
  EXPECT_FALSE(rig_->writeback->step(until, rig_->batch()).value());
  EXPECT_EQ(dirty_tail(), until.pos);
  EXPECT_EQ(rig_->device_value(4096), Rig::kBacking);
  EXPECT_TRUE(rig_->dirty(4096));
}

// Hazard flush-for-each-kset: one flush of the device covers a batch of many ksets.
TEST_F(WritebackTest, OneFlushForManyKsets) {
  start();
  for (uint64_t i = 0; i < 4096; i++) rig_->write(i * 1024, 512, 1);
  rig_->flush();
  EXPECT_EQ(rig_->write_back(), 1);
  EXPECT_EQ(counters().ksets, 32u);
  EXPECT_EQ(flushes(), 1u);
  EXPECT_EQ(counters().flushes, 1u);
}

TEST_F(WritebackTest, ABatchEndsWhenItIsLargeEnough) {
  start({.batch_bytes = 64 << 10});
  for (uint64_t i = 0; i < 4 * 128; i++) rig_->write(i * 1024, 512, 1);
  rig_->flush();
  EXPECT_EQ(rig_->write_back(), 4) << "one kset of 128 sectors each";
  EXPECT_EQ(flushes(), 4u);
}

TEST_F(WritebackTest, FollowsTheLogIntoItsNextSegment) {
  start({.log_head = media::kSegDataBytes - 1024});
  for (uint32_t i = 0; i < 100; i++) {
    rig_->write(i * 4096, 512, i);
    rig_->close();
  }
  EXPECT_EQ(rig_->log->counters().rolls, 1u);
  rig_->write_back();
  EXPECT_EQ(dirty_tail(), rig_->log->head());
  for (uint32_t i = 0; i < 100; i++) ASSERT_EQ(rig_->device_value(i * 4096), int(i));
}

TEST_F(WritebackTest, WithinAnEpochOnlyTheNewestIsWritten) {
  start();
  for (uint32_t i = 1; i <= 500; i++) rig_->write(0, 4096, i);
  rig_->write(1024, 512, 501);
  rig_->flush();
  rig_->write_back();
  EXPECT_EQ(counters().written_bytes, 4096u);
  EXPECT_THAT(done(), ElementsAre("0+8", "flush"));
  EXPECT_EQ(rig_->device_value(0), 500);
  EXPECT_EQ(rig_->device_value(1024), 501);
  EXPECT_EQ(rig_->mapped(0, 4096), "CCCCCCCC");
}

TEST_F(WritebackTest, WhatTheUserOverwroteMeanwhileStaysDirty) {
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  rig_->write(1024, 512, 2);  // its kset is open
  rig_->write_back();
  EXPECT_EQ(rig_->mapped(0, 4096), "CCDCCCCC");
  EXPECT_EQ(rig_->device_value(1024), 1);
  EXPECT_EQ(rig_->value(1024), 2);
}

TEST_F(WritebackTest, GivesABiasBack) {
  if (!process_barrier_available()) GTEST_SKIP() << "membarrier(2) is not permitted here";
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  const BiasedMutex& mu = written_until_biased(8192);
  EXPECT_EQ(rig_->write_back(), 1);
  EXPECT_EQ(rig_->mapped(0, 512), "C") << "of the same stripe";
  EXPECT_TRUE(mu.is_biased());
}

TEST_F(WritebackTest, CleanKeysArePassedUnwritten) {
  start();
  rig_->fill(0, 4096);
  rig_->flush();
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), IsEmpty()) << "nor is there anything to flush";
  EXPECT_EQ(dirty_tail(), rig_->log->head());
  EXPECT_EQ(counters().keys, 0u);
}

// Whoever waits for space is let in by it: superseded data counts as well, and nothing twice.
TEST_F(WritebackTest, ProgressAddsUpToWhatIsPassed) {
  uint64_t progress = 0;
  start({.writeback = {.progress = [&](uint64_t bytes) { progress += bytes; }}});
  uint64_t appended = 0;
  for (uint32_t i = 0; i < 500; i++) {
    rig_->write(i % 7 * 8192, 4096, i);
    appended += 4096;
    if (i % 100 == 50) rig_->fill((4 << 20) + i * 4096, 4096);
    if (i % 100 == 60) rig_->flush();
    if (i % 100 == 70) {
      ASSERT_TRUE(step().ok());
      EXPECT_EQ(progress, rig_->writeback->passed_dirty_bytes());
    }
  }
  rig_->flush();
  rig_->write_back();
  EXPECT_EQ(progress, appended);
  rig_->fill(8 << 20, 4096);
  rig_->flush();
  rig_->write_back();
  EXPECT_EQ(progress, appended) << "clean data makes none";
}

// A report may wake a thread, and do what that waits for: the device does not stand idle meanwhile.
TEST_F(WritebackTest, ProgressOfWritesIsToldWhileTheDeviceWorks) {
  struct Told {
    uint64_t bytes;
    uint32_t in_flight;
    auto operator<=>(const Told&) const = default;
  };
  uint32_t in_flight = 0;
  std::vector<Told> told;
  start({.writeback = {.progress = [&](uint64_t bytes) { told.push_back({bytes, in_flight}); }}});
  device_->set_on_change(
      [&](const MemoryDevice::Change& change) { change.completed ? in_flight-- : in_flight++; });
  device_->hold();
  device_->set_release_on_wait(true);
  constexpr uint32_t kPages = 2 * kMarkingShare;
  const auto write_pages = [&] {
    for (uint32_t i = 0; i < kPages; i++) rig_->write(i * 8192, 4096, i + 1);
    rig_->flush();
  };
  write_pages();
  EXPECT_TRUE(step().value());
  // A page's share of what is left for marking is missing.
  constexpr uint64_t kOfWrites = kHurriedDepth * (4096 - 4096 / kMarkingShare);
  static_assert(kPages == 4 * kHurriedDepth);
  const std::vector<Told> of_writes{{kOfWrites, kHurriedDepth},
                                    {kOfWrites, kHurriedDepth},
                                    {kOfWrites, kHurriedDepth},
                                    {kOfWrites, 1}};
  std::vector<Told> of_all = of_writes;
  of_all.push_back({kPages * 4096 / kMarkingShare, 0});
  EXPECT_EQ(told, of_all);
  // A step that fails tells what it has got, and the next one the rest.
  told.clear();
  write_pages();
  device_->set_error(BlockOp::kFlush, EIO);
  EXPECT_FALSE(step().ok());
  EXPECT_EQ(told, of_writes);
  device_->set_error(0);
  EXPECT_TRUE(step().value());
  uint64_t all = 0;
  for (const Told& t : told) all += t.bytes;
  EXPECT_EQ(all, kPages * 4096);
  device_->set_on_change(nullptr);
}

// Who is let in by it does not stand still while a batch is marked clean.
TEST_F(WritebackTest, SomeProgressIsMadeByMarking) {
  constexpr uint32_t kPages = 2 * kMarkingShare;
  std::vector<uint64_t> before, after;
  bool flushed = false;
  start({.writeback = {
             .progress = [&](uint64_t bytes) { (flushed ? after : before).push_back(bytes); }}});
  device_->set_on_change([&](const MemoryDevice::Change& change) {
    flushed |= change.op == BlockOp::kFlush && change.completed;
  });
  device_->hold();
  device_->set_release_on_wait(true);
  for (uint32_t i = 0; i < kPages; i++)
    rig_->write(i % 2 * kRangeBytes + i / 2 * 8192, 4096, i + 1);
  rig_->flush();
  EXPECT_EQ(rig_->write_back(), 1);
  EXPECT_EQ(std::accumulate(before.begin(), before.end(), uint64_t{0}), (kPages - 2) * 4096);
  EXPECT_THAT(after, ElementsAre(4096, 4096)) << "by stripe";
  device_->set_on_change(nullptr);
}

TEST_F(WritebackTest, ABarrierDividesBatches) {
  start();
  rig_->write(0, 512, 1);
  rig_->flush();
  rig_->write(4096, 512, 2);
  rig_->write(0, 512, 3);
  rig_->flush();
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+1", "flush"));
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->value(0), 3);
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+1", "flush", "0+1", "8+1", "flush"));
  EXPECT_EQ(rig_->device_value(0), 3);
}

// Closing ksets by time is no barrier of the user's.
TEST_F(WritebackTest, ClosingKsetsDividesNothing) {
  start();
  rig_->write(0, 512, 1);
  rig_->close();
  rig_->write(4096, 512, 2);
  rig_->close();
  rig_->write(0, 512, 3);
  rig_->flush();
  EXPECT_EQ(rig_->write_back(), 1);
  EXPECT_THAT(done(), ElementsAre("0+1", "8+1", "flush"));
}

// The log says where its barriers were. With an attach an epoch begins: nobody knows what was lost
// behind what it has found.
TEST_F(WritebackTest, AnAttachKnowsTheEpochsOfTheLog) {
  start();
  for (uint32_t i = 1; i <= 4; i++) {
    rig_->write(0, 512, i);
    rig_->close();
    if (i == 1) rig_->flush();
  }
  attach();
  EXPECT_EQ(rig_->replayed.dirty_ksets, 4u);
  rig_->write(0, 512, 4);
  rig_->close();
  rig_->write(4096, 512, 5);
  rig_->close();
  EXPECT_EQ(rig_->write_back(), 3);
  EXPECT_THAT(done(), ElementsAre("0+1", "flush", "0+1", "flush", "0+1", "8+1", "flush"));
  EXPECT_EQ(rig_->device_value(0), 4);
}

// Ksets of the kernel target say nothing of barriers: each may be behind one.
TEST_F(WritebackTest, OfTheKernelTargetEachKsetIsAnEpoch) {
  start();
  for (uint32_t i = 1; i <= 3; i++) {
    rig_->write(0, 512, i);
    rig_->close();
  }
  LogCursor cursor(rig_->pmem, *rig_->table, rig_->tails.dirty_tail());
  for (;;) {
    const auto item = cursor.next();
    ASSERT_TRUE(item.ok());
    if (item.value().kind == LogItem::Kind::kEnd) break;
    const std::span<const media::Key> keys = item.value().keys;
    image_->kset(item.value().pos, {keys.begin(), keys.end()});
  }
  attach();
  EXPECT_EQ(rig_->write_back(), 3);
  EXPECT_THAT(done(), ElementsAre("0+1", "flush", "0+1", "flush", "0+1", "flush"));
}

// At any moment, whatever of the unflushed writes a loss of power keeps, the device alone is a
// state that the user's barriers allow: something of epoch N on it means all of the earlier ones.
TEST_F(WritebackTest, TheDeviceAloneIsAlwaysLegal) {
  for (uint64_t seed = 1; seed <= 8; seed++) {
    std::mt19937_64 random(seed);
    start({.data_crc = seed % 2 == 0, .batch_bytes = uint64_t{8} << 10 << seed});
    constexpr uint64_t kSectors = 64;
    const auto place = [](uint64_t s) {  // three ranges, so three stripes
      return s % 3 * kRangeBytes + s / 3 * kSector;
    };
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Epochs user{.place_bytes = kSector};
    for (uint32_t i = 0; i < 2000; i++) {
      const uint64_t choice = random() % 100;
      if (choice < 80) {
        const uint32_t value = user.new_value();
        const uint64_t sector = random() % kSectors;
        const uint64_t n = std::min<uint64_t>(1 + random() % 4, (kSectors + 2 - sector) / 3);
        rig_->write(place(sector), std::max<uint64_t>(n, 1) * kSector, value);
        for (uint64_t k = 0; k < std::max<uint64_t>(n, 1); k++)
          user.now[place(sector) + k * kSector] = value;
      } else if (choice < 88) {
        rig_->flush();
        user.barrier();
      } else if (choice < 94) {
        rig_->close();
      } else {
        ASSERT_TRUE(step().ok());
      }
    }
    rig_->flush();
    rig_->write_back();
    ASSERT_NO_FATAL_FAILURE(expect_device_was_legal(user));
  }
}

// Hazard dirty-tail-ahead-of-disk: a device write that fails leaves dirty_tail, and the keys dirty.
TEST_F(WritebackTest, AFailedWriteMovesNothing) {
  start();
  rig_->write(0, 4096, 1);
  rig_->write(1 << 20, 4096, 2);
  rig_->flush();
  image_->memory().checkpoint();
  const CachePos before = dirty_tail();
  device_->set_error(BlockOp::kWrite, ENOSPC);
  for (int i = 0; i < 2; i++) {
    const auto moved = step();
    ASSERT_FALSE(moved.ok());
    EXPECT_EQ(moved.error().code, ENOSPC);
    EXPECT_THAT(moved.error().text, HasSubstr("memory device: writing back failed"));
  }
  EXPECT_EQ(dirty_tail(), before);
  EXPECT_TRUE(image_->memory().journal().empty());
  EXPECT_EQ(rig_->mapped(0, 4096), "DDDDDDDD");
  EXPECT_EQ(flushes(), 0u);
  EXPECT_EQ(counters().errors, 2u);
  EXPECT_EQ(counters().batches, 0u);

  device_->set_error(0);
  EXPECT_TRUE(step().value());
  EXPECT_EQ(dirty_tail(), rig_->log->head());
  EXPECT_EQ(rig_->device_value(0), 1);
  EXPECT_EQ(rig_->device_value(1 << 20), 2);
}

TEST_F(WritebackTest, AFailedFlushMovesNothing) {
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  image_->memory().checkpoint();
  const CachePos before = dirty_tail();
  device_->set_error(BlockOp::kFlush, EIO);
  EXPECT_THAT(step_error(), HasSubstr("memory device: its flush failed"));
  EXPECT_EQ(dirty_tail(), before);
  EXPECT_TRUE(image_->memory().journal().empty());
  EXPECT_TRUE(rig_->dirty(0));
  device_->set_error(0);
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+8", "0+8", "flush")) << "the data is written again, too";
  EXPECT_FALSE(rig_->dirty(0));
  EXPECT_EQ(dirty_tail(), rig_->log->head());
}

// Each sector is written with success once, whatever else fails, and how often.
TEST_F(WritebackTest, WhatHasBeenWrittenIsNotWrittenAgain) {
  start();
  constexpr uint32_t kPages = 400;
  for (uint32_t i = 0; i < kPages; i++) rig_->write(i * 8192, 4096, i);
  rig_->write(16 << 20, 256 << 10, 7777);  // one write, with a bad place in it
  rig_->flush();
  const uint64_t bad = (16 << 20) + (64 << 10);
  const auto fails = [&](const Extent& extent) {
    return extent.off <= bad && bad < extent.off + extent.len;
  };
  uint32_t writes = 0;
  bool healed = false;
  device_->set_fate([&](BlockOp op, const Extent& extent) {
    const bool random = op == BlockOp::kWrite && writes++ % 33 == 0;
    return MemoryDevice::Fate{.error = random || (!healed && fails(extent)) ? EIO : 0};
  });
  const CachePos before = dirty_tail();
  for (int i = 0; i < 3; i++) {
    EXPECT_THAT(step_error(), HasSubstr("writing back failed at " + std::to_string(bad) +
                                        "+4096, 4096 bytes of its batch are left"));
    EXPECT_EQ(rig_->writeback->unwritten_bytes(), 4096u);
    EXPECT_EQ(dirty_tail(), before);
    EXPECT_TRUE(rig_->dirty(0));
    EXPECT_EQ(flushes(), 0u);
  }
  healed = true;
  EXPECT_TRUE(step().value());
  EXPECT_EQ(dirty_tail(), rig_->log->head());
  EXPECT_EQ(rig_->writeback->unwritten_bytes(), 0u);
  EXPECT_EQ(rig_->mapped(bad, 512), "C");
  std::map<uint64_t, int> written;  // by page
  for (const MemoryDevice::Event& event : device_->journal()) {
    if (event.op == BlockOp::kFlush) continue;
    for (uint64_t at = 0; at < event.extent.len; at += 4096) written[event.extent.off + at]++;
  }
  EXPECT_EQ(written.size(), kPages + 64u);
  for (const auto& [off, times] : written) EXPECT_EQ(times, 1) << "at " << off;
  EXPECT_EQ(done().back(), "flush");
  EXPECT_EQ(flushes(), 1u);
  for (uint32_t i = 0; i < kPages; i++) ASSERT_EQ(rig_->device_value(i * 8192), int(i));
  EXPECT_EQ(rig_->on_device({16 << 20, 256 << 10}), Rig::filled(256 << 10, 7777));
  EXPECT_GT(counters().failed_writes.load(), 0u);
}

// What a flush that failed had to cover may be lost: also what had needed several tries.
TEST_F(WritebackTest, AFailedFlushHasAllOfTheBatchWrittenAgain) {
  start();
  rig_->write(0, 4096, 1);
  rig_->write(1 << 20, 4096, 2);
  rig_->flush();
  bool bad = true;
  device_->set_fate([&](BlockOp op, const Extent& extent) {
    return MemoryDevice::Fate{.error = op == BlockOp::kWrite && bad && extent.off > 0 ? EIO : 0};
  });
  EXPECT_THAT(step_error(), HasSubstr("1048576+4096"));
  EXPECT_THAT(done(), ElementsAre("0+8"));
  bad = false;
  device_->set_error(BlockOp::kFlush, EIO);
  EXPECT_THAT(step_error(), HasSubstr("its flush failed"));
  EXPECT_THAT(done(), ElementsAre("0+8", "2048+8")) << "only what was left";
  device_->set_error(0);
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+8", "2048+8", "0+8", "2048+8", "flush"));
  EXPECT_FALSE(rig_->dirty(1 << 20));
}

// The batch that is left stands as it was made; what comes later is a batch of its own.
TEST_F(WritebackTest, ABarrierBehindAFailedBatchStaysBehindIt) {
  start();
  rig_->write(0, 4096, 1);
  rig_->write(8192, 4096, 1);
  rig_->flush();
  bool bad = true;
  device_->set_fate([&](BlockOp, const Extent& extent) {
    return MemoryDevice::Fate{.error = bad && extent.off == 8192 ? EIO : 0};
  });
  EXPECT_FALSE(step().ok());
  rig_->write(0, 4096, 2);
  rig_->write(8192, 4096, 2);
  rig_->flush();
  EXPECT_FALSE(step().ok());
  bad = false;
  EXPECT_TRUE(step().value());
  EXPECT_THAT(done(), ElementsAre("0+8", "16+8", "flush"));
  EXPECT_EQ(rig_->device_value(8192), 1);
  EXPECT_TRUE(rig_->dirty(0));
  EXPECT_EQ(rig_->write_back(), 1);
  EXPECT_EQ(rig_->device_value(0), 2);
  EXPECT_EQ(rig_->device_value(8192), 2);
}

// Data that turns out to be damaged only when it is tried again.
TEST_F(WritebackTest, DataThatIsDamagedMeanwhileIsKept) {
  start({.data_crc = true});
  rig_->write(0, 4096, 1);
  rig_->write(8192, 4096, 2);
  rig_->flush();
  bool bad = true;
  device_->set_fate([&](BlockOp, const Extent& extent) {
    return MemoryDevice::Fate{.error = bad && extent.off == 8192 ? EIO : 0};
  });
  EXPECT_FALSE(step().ok());
  bad = false;
  damage(8192);
  EXPECT_TRUE(step().value());
  EXPECT_FALSE(rig_->dirty(0));
  EXPECT_TRUE(rig_->dirty(8192));
  EXPECT_EQ(rig_->device_value(8192), Rig::kBacking);
  EXPECT_EQ(counters().bad_keys, 1u);
}

TEST_F(WritebackTest, TheUserGoesOnWhileTheDeviceFails) {
  start();
  rig_->write(0, 4096, 1);
  rig_->flush();
  device_->set_error(EIO);
  EXPECT_FALSE(step().ok());
  rig_->write(0, 1024, 2);
  rig_->flush();
  EXPECT_FALSE(step().ok());
  device_->set_error(0);
  EXPECT_EQ(rig_->write_back(), 2);
  EXPECT_EQ(rig_->device_value(0), 2);
  EXPECT_EQ(rig_->device_value(1024), 1);
}

// Crashes at every store and fence of a step.
class WritebackCrash : public WritebackTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(DataCrc, WritebackCrash, ::testing::Bool());

TEST_P(WritebackCrash, EverythingIsThereAfterIt) {
  start({.data_crc = GetParam()});
  std::map<uint64_t, int> expected;
  for (uint32_t epoch = 0; epoch < 3; epoch++) {
    for (uint32_t i = 0; i < 20; i++) {
      const uint64_t off = (i * 7 + epoch * 3) % 32 * 1024 + i % 2 * kRangeBytes;
      rig_->write(off, 1536, epoch * 100 + i);
      for (uint64_t s = 0; s < 3; s++) expected[off + s * 512] = int(epoch * 100 + i);
    }
    rig_->flush();
  }
  for (int steps = 0; steps < 3; steps++) {
    image_->memory().checkpoint();
    ASSERT_TRUE(step().value());
    int states = 0;
    for_each_crash({}, [&](Rig& rig) {
      states++;
      for (const auto& [off, value] : expected) ASSERT_EQ(rig.value(off), value) << off;
    });
    EXPECT_GT(states, 2);
  }
  for (const auto& [off, value] : expected) ASSERT_EQ(rig_->device_value(off), value);
}

TEST_P(WritebackCrash, DamagedDataStaysDamaged) {
  start({.data_crc = true});
  rig_->write(0, 8192, 1);
  rig_->write(kRangeBytes, 4096, 2);
  rig_->write(8192, 4096, 3);
  rig_->flush();
  damage(512);
  if (GetParam()) rig_->write(0, 1024, 4);
  rig_->flush();
  ASSERT_TRUE(image_->memory().journal().size() > 0 || !GetParam());
  image_->memory().checkpoint();
  ASSERT_TRUE(step().value());
  const uint64_t bad = GetParam() ? 1024 : 0;
  for_each_crash({}, [&](Rig& rig) {
    const auto expect_all = [&] {
      for (uint64_t off = 0; off < bad; off += 512) ASSERT_EQ(rig.value(off), 4) << off;
      for (uint64_t off = bad; off < 8192; off += 512) {
        ASSERT_EQ(rig.value(off), Rig::kUnreadable) << off;
        ASSERT_TRUE(rig.dirty(off)) << off;
        ASSERT_EQ(rig.device_value(off), Rig::kBacking) << off;
      }
      ASSERT_EQ(rig.value(kRangeBytes), 2);
      ASSERT_EQ(rig.value(8192), 3);
    };
    expect_all();
    const Bytes before = device_->peek(0, 1024);
    rig.write_back();
    expect_all();
    rig.reclaim_all();
    expect_all();
    device_->poke(0, before);
  });
}

}  // namespace
}  // namespace pcache
