// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/write_outs.h"

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>

#include "background/worker_for_test.h"
#include "background/writeback_for_test.h"

namespace pcache {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

constexpr unsigned kThreads = 3;
constexpr uint64_t kPage = 4096;
constexpr std::chrono::seconds kFarTooLong{60};

// Who submits to a device. With together(n) everybody waits, before the first request of its own,
// until so many have come.
class Submitters {
 public:
  void together(size_t n) {
    std::lock_guard lock(mu_);
    wanted_ = n;
  }
  void come() {
    std::unique_lock lock(mu_);
    seen_.insert(std::this_thread::get_id());
    changed_.notify_all();
    const bool all =
        changed_.wait_for(lock, kFarTooLong, [this] { return seen_.size() >= wanted_; });
    EXPECT_TRUE(all);
    if (!all) wanted_ = 0;  // once is enough
  }
  std::set<std::thread::id> seen() const {
    std::lock_guard lock(mu_);
    return seen_;
  }

 private:
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::set<std::thread::id> seen_;
  size_t wanted_ = 0;
};

class WriteOutsTest : public BackgroundTest {
 protected:
  void start(RigOptions o = {}, unsigned threads = kThreads) {
    o.logical_bytes = 256 << 20;
    o.segments = 12;
    BackgroundTest::start(o);
    outs_ =
        WriteOuts::create(rig_->out_media(),
                          {.written =
                               [this](uint64_t bytes) {
                                 EXPECT_EQ(std::this_thread::get_id(), me_);
                                 written_ += bytes;
                                 told_ = written_;
                               },
                           .zeroed =
                               [this](uint64_t bytes) {
                                 EXPECT_EQ(std::this_thread::get_id(), me_);
                                 zeroed_ += bytes;
                               },
                           .before_wait = [this] { EXPECT_EQ(std::this_thread::get_id(), me_); }},
                          threads)
            .take();
    set_fate([](const Extent&) { return 0; });
  }
  void TearDown() override {
    outs_.reset();
    BackgroundTest::TearDown();
  }
  // How each request ends, whoever submits it.
  void set_fate(std::function<int(const Extent&)> error_of) {
    device_->set_fate([this, error_of](BlockOp, const Extent& extent) {
      submitters_.come();
      return MemoryDevice::Fate{.error = error_of(extent)};
    });
  }
  // Pages that lie alone, `n` of them, from page `first` on: page p holds p.
  void write_pages(uint32_t first, uint32_t n) {
    for (uint32_t i = n; i-- > 0;) rig_->write(off_of(first + i), kPage, first + i);
  }
  void zero(uint64_t off) { rig_->zeros(off, kPage, media::kKeyZeros | media::kKeyHole, kPage); }
  static uint64_t off_of(uint32_t page) { return page * 2 * kPage; }
  WriteOut::Done write(bool several = true, unsigned depth = WriteOut::kDepth) {
    rig_->close();
    batch_.clear();
    for (const media::Key& key : rig_->keys_from(rig_->tails.key_tail())) batch_.add(key);
    return outs_->write(batch_, batch_.pieces(), {.depth = depth, .several = several});
  }
  void expect_pages(uint32_t n) const {
    for (uint32_t i = 0; i < n; i++) ASSERT_EQ(rig_->device_value(off_of(i)), int(i));
  }
  static std::vector<uint64_t> offs(const std::vector<DirtyBatch::Piece>& pieces) {
    std::vector<uint64_t> result;
    for (const DirtyBatch::Piece& piece : pieces) result.push_back(piece.extent.off);
    return result;
  }

  DirtyBatch batch_;
  Submitters submitters_;
  std::unique_ptr<WriteOuts> outs_;
  const std::thread::id me_ = std::this_thread::get_id();
  uint64_t written_ = 0, zeroed_ = 0;
  std::atomic<uint64_t> told_{0};  // written_, for others
};

constexpr uint32_t kPages = 1100;  // of a little more than four parts

class WriteOutsOf : public WriteOutsTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(DataCrc, WriteOutsOf, ::testing::Bool());

TEST_P(WriteOutsOf, AllOfThemWriteAndAllIsOnTheDevice) {
  start({.data_crc = GetParam()});
  EXPECT_EQ(outs_->threads(), kThreads);
  submitters_.together(kThreads);
  write_pages(0, kPages);
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_EQ(submitters_.seen().size(), kThreads);
  EXPECT_EQ(done.ios, kPages);
  EXPECT_EQ(done.bytes, kPages * kPage);
  EXPECT_EQ(written_, done.bytes) << "told by the thread that called";
  EXPECT_THAT(done.bad_keys, IsEmpty());
  EXPECT_THAT(done.failed, IsEmpty());
  EXPECT_THAT(done.untried, IsEmpty());
  expect_pages(kPages);
}

TEST_F(WriteOutsTest, LittleIsWrittenByTheCallerAlone) {
  start();
  write_pages(0, WriteOuts::kLeastBytes / kPage);
  EXPECT_EQ(write().error, 0);
  EXPECT_THAT(submitters_.seen(), ElementsAre(me_));
  submitters_.together(kThreads);
  write_pages(0, WriteOuts::kLeastBytes / kPage + 1);
  EXPECT_EQ(write().error, 0);
  EXPECT_EQ(submitters_.seen().size(), kThreads);
}

TEST_F(WriteOutsTest, SoIsWhatIsNotForSeveral) {
  start();
  write_pages(0, kPages);
  EXPECT_EQ(write(false).error, 0);
  EXPECT_THAT(submitters_.seen(), ElementsAre(me_));
  expect_pages(kPages);
}

// One request makes many pieces of zeros.
TEST_F(WriteOutsTest, ZerosAreNotDivided) {
  start();
  rig_->zeros(0, 128 << 20);
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_EQ(done.zero_ios, 1u);
  EXPECT_EQ(zeroed_, uint64_t{128 << 20});
}

TEST_F(WriteOutsTest, ZerosThatAHelperMakesAreTold) {
  start();
  submitters_.together(kThreads);
  write_pages(0, kPages);
  for (uint32_t page = 1; page < kPages; page += 2) zero(off_of(page) + kPage);
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_EQ(zeroed_, kPages / 2 * kPage);
  EXPECT_EQ(done.hole_bytes, zeroed_);
  EXPECT_EQ(written_, kPages * kPage);
}

TEST_F(WriteOutsTest, SoManyAreInFlightOfAllAtMost) {
  start();
  submitters_.together(kThreads);
  write_pages(0, kPages);
  device_->hold();
  device_->set_release_on_wait(true);
  constexpr unsigned kDepth = kThreads * WriteOuts::kLeastDepth;
  EXPECT_EQ(write(true, kDepth).error, 0);
  EXPECT_LE(device_->most_held(), kDepth);
  EXPECT_EQ(device_->held(), 0u) << "nothing is in flight afterwards";
}

TEST_F(WriteOutsTest, AShortQueueIsNotDivided) {
  start();
  write_pages(0, kPages);
  EXPECT_EQ(write(true, 2 * WriteOuts::kLeastDepth - 1).error, 0);
  EXPECT_THAT(submitters_.seen(), ElementsAre(me_));
}

// Who waits for space is let in meanwhile.
TEST_F(WriteOutsTest, WhatOthersDoIsToldWhileTheCallerHasNothingToDo) {
  start({}, 2);
  constexpr uint32_t kPart = WriteOuts::kPartBytes / kPage;
  std::atomic<uint32_t> by_caller{0}, by_other{0};
  const auto wait_for = [](const auto& condition) {
    const auto deadline = std::chrono::steady_clock::now() + kFarTooLong;
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
      std::this_thread::yield();
    }
  };
  device_->set_fate([&](BlockOp, const Extent&) {
    if (std::this_thread::get_id() == me_) {
      by_caller++;
      // It does not take all.
      if (by_caller == 1) wait_for([&] { return by_other > 0; });
    } else if (++by_other == 1) {
      wait_for([&] { return by_caller == kPages - kPart; });
    } else if (by_other == kPart) {  // of which some are done
      wait_for([&] { return told_ > (kPages - kPart) * kPage; });
    }
    return MemoryDevice::Fate{};
  });
  write_pages(0, kPages);
  EXPECT_EQ(write().error, 0);
  EXPECT_EQ(written_, kPages * kPage);
}

TEST_F(WriteOutsTest, WhatFailsIsToldPieceByPiece) {
  start();
  submitters_.together(kThreads);
  write_pages(0, kPages);
  const auto is_bad = [](uint64_t off) { return off / kPage % 200 < 2; };
  set_fate([&](const Extent& extent) { return is_bad(extent.off) ? EREMOTEIO : 0; });
  auto done = write();
  EXPECT_EQ(done.error, EREMOTEIO);
  std::vector<uint64_t> bad;
  for (uint32_t i = 0; i < kPages; i++)
    if (is_bad(off_of(i))) bad.push_back(off_of(i));
  EXPECT_EQ(offs(done.failed), bad) << "ascending";
  EXPECT_THAT(done.untried, IsEmpty());
  EXPECT_EQ(done.failed_ios, bad.size() * WriteOut::kAttempts);
  EXPECT_EQ(done.ios, kPages - bad.size());
  for (uint32_t i = 0; i < kPages; i++)
    ASSERT_EQ(rig_->device_value(off_of(i)), is_bad(off_of(i)) ? Rig::kBacking : int(i));
  set_fate([](const Extent&) { return 0; });
  EXPECT_EQ(outs_->write(batch_, done.failed, {.several = true}).error, 0);
  expect_pages(kPages);
}

// Two of them fail, with other errors: the first by place is told, whoever has met it.
TEST_F(WriteOutsTest, TheErrorIsThatOfTheFirstThatFailed) {
  for (const bool caller_is_first : {false, true}) {
    start({}, 2);
    std::map<bool, uint64_t> failed;  // by whether the caller has met it
    std::mutex mu;
    submitters_.together(2);
    write_pages(0, kPages);
    set_fate([&](const Extent& extent) {
      const bool mine = std::this_thread::get_id() == me_;
      std::lock_guard lock(mu);
      const auto [at, is_new] = failed.emplace(mine, extent.off);
      if (at->second != extent.off) return 0;
      return mine == caller_is_first ? ENOSPC : EREMOTEIO;
    });
    const auto done = write();
    ASSERT_EQ(failed.size(), 2u);
    EXPECT_THAT(offs(done.failed), ElementsAre(std::min(failed[false], failed[true]),
                                               std::max(failed[false], failed[true])));
    EXPECT_EQ(done.error, (failed[true] < failed[false]) == caller_is_first ? ENOSPC : EREMOTEIO);
    outs_.reset();
  }
}

TEST_F(WriteOutsTest, ADeviceThatFailsEverythingIsNotAskedForAll) {
  start();
  submitters_.together(kThreads);
  write_pages(0, kPages);
  set_fate([](const Extent&) { return EIO; });
  const auto done = write();
  EXPECT_EQ(done.error, EIO);
  EXPECT_LE(done.failed_ios, kThreads * (WriteOut::kDepth + WriteOut::kMostFailedInARow) *
                                 uint64_t{WriteOut::kAttempts});
  std::vector<uint64_t> left = offs(done.failed), all;
  const std::vector<uint64_t> untried = offs(done.untried);
  EXPECT_TRUE(std::is_sorted(left.begin(), left.end()));
  EXPECT_TRUE(std::is_sorted(untried.begin(), untried.end()));
  EXPECT_FALSE(untried.empty());
  left.insert(left.end(), untried.begin(), untried.end());
  for (uint32_t i = 0; i < kPages; i++) all.push_back(off_of(i));
  EXPECT_THAT(left, UnorderedElementsAreArray(all)) << "each once";
  EXPECT_EQ(written_, 0u);
}

TEST_F(WriteOutsTest, WhatIsGivenUpIsUntriedAndGoesOn) {
  start();
  submitters_.together(kThreads);
  write_pages(0, kPages);
  set_fate([this](const Extent&) {
    outs_->give_up(true);
    return 0;
  });
  const auto done = write();
  EXPECT_EQ(done.error, ECANCELED);
  EXPECT_THAT(done.failed, IsEmpty());
  EXPECT_EQ(done.ios + done.untried.size(), kPages);
  EXPECT_EQ(written_, done.bytes);
  for (const DirtyBatch::Piece& piece : done.untried)
    ASSERT_EQ(rig_->device_value(piece.extent.off), Rig::kBacking);
  outs_->give_up(false);
  set_fate([](const Extent&) { return 0; });
  EXPECT_EQ(outs_->write(batch_, done.untried, {.several = true}).error, 0);
  expect_pages(kPages);
}

// One key has pieces in both parts, and two threads find that it is damaged.
TEST_F(WriteOutsTest, ADamagedKeyIsToldOnce) {
  start({.data_crc = true, .crc_extent_bytes = 4 << 20}, 2);
  submitters_.together(2);
  rig_->write(kRangeBytes, 3 << 20, 1);
  damage(kRangeBytes);
  rig_->write(kRangeBytes - 2 * kPage, kPage, 2);          // in the first part
  rig_->write(kRangeBytes + (2 << 20), kPage, 3);          // in the second
  rig_->write(kRangeBytes + (3 << 20) + kPage, kPage, 4);  // likewise
  const auto done = write();
  EXPECT_EQ(done.error, 0);
  EXPECT_EQ(submitters_.seen().size(), 2u);
  ASSERT_EQ(done.bad_keys.size(), 1u);
  EXPECT_EQ(batch_.keys()[done.bad_keys[0]].off, kRangeBytes);
  EXPECT_EQ(rig_->device_value(kRangeBytes), Rig::kBacking);
  EXPECT_EQ(rig_->device_value(kRangeBytes + (3 << 20) - kPage), Rig::kBacking);
  EXPECT_EQ(rig_->device_value(kRangeBytes - 2 * kPage), 2);
  EXPECT_EQ(rig_->device_value(kRangeBytes + (2 << 20)), 3);
  EXPECT_EQ(rig_->device_value(kRangeBytes + (3 << 20) + kPage), 4);
}

class FewQueues : public MemoryDevice {
 public:
  using MemoryDevice::MemoryDevice;
  Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) override {
    if (left_-- == 0) return make_error(ENOMEM, "no queue");
    return MemoryDevice::open_queue(depth);
  }
  void allow(int n) { left_ = n; }

 private:
  int left_ = 0;
};

TEST_F(WriteOutsTest, WithoutQueuesThereAreFewer) {
  start();
  FewQueues few(256 << 20);
  const WriteOut::Media media{rig_->pmem, *rig_->table, few, false};
  EXPECT_FALSE(WriteOuts::create(media, {}, kThreads).ok());
  few.allow(1);
  outs_ = WriteOuts::create(media, {}, kThreads).take();
  EXPECT_EQ(outs_->threads(), 1u);
  write_pages(0, kPages);
  EXPECT_EQ(write().error, 0);
  for (uint32_t i = 0; i < kPages; i++)
    ASSERT_EQ(few.peek(off_of(i), kPage), Rig::filled(kPage, i));
  outs_.reset();
}

class OnAServer : public MemoryDevice {
 public:
  using MemoryDevice::MemoryDevice;
  std::optional<BlockLink> link() const override { return BlockLink{}; }
};

TEST(WriteOutsThreads, OneForEachCpuButNotForAServerNorASimulator) {
  MemoryDevice here(1 << 20);
  EXPECT_EQ(WriteOuts::threads_for(PmemKind::kEmulated, here),
            std::min(WriteOuts::kMost, Crew::cpus()));
  EXPECT_EQ(WriteOuts::threads_for(PmemKind::kSimulated, here), 1u);
  OnAServer there(1 << 20);
  EXPECT_EQ(WriteOuts::threads_for(PmemKind::kEmulated, there), 1u);
}

// With steps of writeback as a whole: what several write of an epoch is flushed before the next
// one begins, and the device alone was always a state that the barriers allow.
class WritebackBySeveral : public WritebackTest {
 protected:
  static constexpr uint64_t kPlace = 16 << 10;

  void start() {
    RigOptions o;
    o.segments = 24;
    o.writeback.threads = kThreads;
    o.writeback.progress = [this](uint64_t bytes) {
      EXPECT_EQ(std::this_thread::get_id(), me_);
      told_ += bytes;
    };
    WritebackTest::start(o);
    device_->set_fate([this](BlockOp op, const Extent&) {
      if (op == BlockOp::kWrite) submitters_.come();
      return MemoryDevice::Fate{};
    });
  }
  // Every place from `first` on.
  void write_places(uint64_t first, uint64_t n) {
    for (uint64_t i = n; i-- > 0;) {
      const uint64_t off = (first + i) * 2 * kPlace;
      const uint32_t value = user_.new_value();
      rig_->write(off, kPlace, value);
      for (uint64_t at = 0; at < kPlace; at += kPage) user_.now[off + at] = value;
    }
  }
  void write_back() {
    Writeback::Size size = rig_->batch();
    size.several = true;
    size.depth = WriteOut::kDepth;
    const LogMark until = rig_->log->mark();
    for (;;) {
      const auto moved = rig_->writeback->step(until, size);
      ASSERT_TRUE(moved.ok()) << moved.error().text;
      if (!moved.value()) return;
    }
  }

  const std::thread::id me_ = std::this_thread::get_id();
  Epochs user_{.place_bytes = kPage};  // what has failed is written by such pieces
  Submitters submitters_;
  uint64_t told_ = 0;
};

TEST_F(WritebackBySeveral, EpochsReachTheDeviceInOrder) {
  start();
  submitters_.together(kThreads);
  uint64_t bytes = 0;
  for (uint64_t epoch = 0; epoch < 4; epoch++) {
    write_places(epoch * 40, 300);
    bytes += 300 * kPlace;
    user_.barrier();
    rig_->flush();
  }
  write_back();
  EXPECT_EQ(submitters_.seen().size(), kThreads);
  EXPECT_EQ(flushes(), 4u);
  EXPECT_EQ(told_, bytes);
  expect_device_was_legal(user_);
}

TEST_F(WritebackBySeveral, WhatFailedIsWrittenByALaterStep) {
  start();
  submitters_.together(kThreads);
  write_places(0, 300);
  rig_->flush();
  std::atomic<bool> fails{true};
  device_->set_fate([&](BlockOp op, const Extent& extent) {
    if (op == BlockOp::kWrite) submitters_.come();
    const bool bad = op == BlockOp::kWrite && fails && extent.off / (2 * kPlace) % 50 == 7;
    return MemoryDevice::Fate{.error = bad ? EIO : 0};
  });
  const CachePos before = dirty_tail();
  Writeback::Size size = rig_->batch();
  size.several = true;
  size.depth = WriteOut::kDepth;
  EXPECT_FALSE(rig_->writeback->step(rig_->log->mark(), size).ok());
  EXPECT_EQ(dirty_tail(), before);
  EXPECT_EQ(flushes(), 0u);
  EXPECT_EQ(rig_->writeback->unwritten_bytes(), 6 * kPlace);
  EXPECT_EQ(counters().writes, 294u);
  fails = false;
  write_back();
  EXPECT_EQ(counters().writes, 294 + 6 * kPlace / WriteOut::kLeastBytes)
      << "and what was written is not written again";
  user_.barrier();
  expect_device_was_legal(user_);
}

// The worker says whether somebody waits.
TEST_F(WorkerTest, SeveralThreadsWriteWhatARequestWaitsFor) {
  RigOptions o;
  o.logical_bytes = 256 << 20;
  o.segments = 24;
  o.writeback.threads = 2;
  start(70, o);
  Submitters submitters;
  device_->set_fate([&](BlockOp op, const Extent&) {
    if (op == BlockOp::kWrite) submitters.come();
    return MemoryDevice::Fate{};
  });
  const auto write_apart = [this](uint64_t first) {
    for (uint64_t i = 0; i < 2 * WriteOuts::kLeastBytes / kPage; i++)
      ASSERT_TRUE(rig_->write((first + 2 * i) * kPage, kPage, 1));
    rig_->close();
  };
  write_apart(0);
  advance(kInterval);
  EXPECT_EQ(rig_->index->dirty_bytes(), 0u);
  EXPECT_EQ(submitters.seen().size(), 1u) << "nobody waits";
  write_apart(1 << 14);
  submitters.together(2);
  waiting_ = for_writeback_ = true;
  on_retry_ = [this] { waiting_ = rig_->index->dirty_bytes() > 0; };
  worker_->request_waits();
  run();
  EXPECT_FALSE(waiting_);
  EXPECT_EQ(submitters.seen().size(), 2u);
}

}  // namespace
}  // namespace pcache
