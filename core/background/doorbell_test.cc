// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/doorbell.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "blockdev/unique_fd.h"

namespace pcache {
namespace {

using Milliseconds = Doorbell::Milliseconds;
using Side = Doorbell::Side;
using Hint = Doorbell::Hint;

constexpr Milliseconds kHour{3600 * 1000};

class DoorbellTest : public ::testing::Test {
 protected:
  DoorbellTest() : file_(memfd_create("bell", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(file_.get(), Doorbell::kPageBytes), 0);
  }
  void connect() {
    ASSERT_TRUE(front_.connect(file_.get()).ok());
    ASSERT_TRUE(backend_.connect(file_.get()).ok());
  }
  void fill(int byte) {
    const std::vector<char> bytes(Doorbell::kPageBytes, static_cast<char>(byte));
    EXPECT_EQ(pwrite(file_.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
  }

  const UniqueFd file_;
  Doorbell front_{Side::kFront}, backend_{Side::kBackend};
};

TEST_F(DoorbellTest, NobodyIsRungWhoDoesNotListen) {
  connect();
  front_.want(true);
  backend_.ring();
  EXPECT_EQ(front_.rings() + backend_.rings(), 0u);
  EXPECT_TRUE(backend_.wanted());
  backend_.listen();
  front_.want(true);
  front_.want(false);
  EXPECT_EQ(front_.rings(), 1u);
  EXPECT_FALSE(backend_.wanted());
  backend_.listen(false);
  front_.want(true);
  EXPECT_EQ(front_.rings(), 1u);
}

// Without the ring it would take an hour.
TEST_F(DoorbellTest, ARingEndsAWait) {
  connect();
  for (int i = 0; i < 100; i++) {
    const uint32_t heard = backend_.listen();
    std::thread front([this] { front_.want(true); });
    while (backend_.rings_heard() == heard) (void)backend_.wait(heard, kHour);
    EXPECT_TRUE(backend_.wanted());
    front.join();
  }
}

// Between the last look and the sleep.
TEST_F(DoorbellTest, ARingBeforeTheWaitIsNotLost) {
  connect();
  for (Doorbell* const one : {&front_, &backend_}) {
    Doorbell& other = one == &front_ ? backend_ : front_;
    const uint32_t heard = one->listen();
    other.ring();
    EXPECT_TRUE(one->wait(heard, kHour));
    EXPECT_NE(one->rings_heard(), heard);
  }
}

// Two sides that change what the other waits for as often as they can: a lost ring would hang it.
TEST_F(DoorbellTest, NoRingIsLostInARace) {
  connect();
  constexpr int kTurns = 20000;
  std::atomic<int> turn{0};  // even: the front's
  const auto play = [&](Doorbell& mine, int parity) {
    for (;;) {
      const uint32_t heard = mine.listen();
      const int now = turn.load();
      if (now >= kTurns) return;
      if (now % 2 != parity) {
        (void)mine.wait(heard, kHour);
        continue;
      }
      mine.listen(false);
      turn.store(now + 1);
      mine.ring();
    }
  };
  std::thread backend([&] { play(backend_, 1); });
  play(front_, 0);
  backend.join();
  EXPECT_EQ(turn.load(), kTurns);
}

TEST_F(DoorbellTest, ASideWakesItself) {
  const uint32_t heard = front_.listen();  // without a file, too
  std::thread other([this] { front_.wake_self(); });
  while (front_.rings_heard() == heard) (void)front_.wait(heard, kHour);
  other.join();
}

TEST_F(DoorbellTest, WhoBeatsIsHeardUntilItIsSilent) {
  connect();
  Milliseconds now{1000};
  front_.beat(Milliseconds{5});  // by one that has died since
  backend_.look(now);
  EXPECT_FALSE(backend_.speaks());
  backend_.look(now += kHour);
  EXPECT_FALSE(backend_.speaks());
  front_.beat(Milliseconds{6});
  backend_.look(now);
  EXPECT_TRUE(backend_.speaks());
  backend_.look(now += Doorbell::kMostSilence);
  EXPECT_TRUE(backend_.speaks());
  backend_.look(now += Milliseconds{1});
  EXPECT_FALSE(backend_.speaks());
  EXPECT_EQ(backend_.last_beat(), 6u);
  front_.beat(Milliseconds{7});
  front_.say(Hint::kUsedSegments, 12);
  backend_.look(now);
  EXPECT_TRUE(backend_.speaks());
  EXPECT_EQ(backend_.heard(Hint::kUsedSegments), 12u);
  EXPECT_EQ(backend_.heard(Hint::kPid), static_cast<uint64_t>(getpid()));
  const uint32_t heard = backend_.listen();
  front_.want(true);
  front_.leave();
  EXPECT_TRUE(backend_.wait(heard, kHour));
  backend_.look(now);
  EXPECT_FALSE(backend_.speaks());
  EXPECT_FALSE(backend_.wanted());
}

TEST_F(DoorbellTest, GarbageInThePageIsOvercome) {
  connect();
  for (const int byte : {0xff, 0x00, 0x5a}) {
    fill(byte);
    const uint32_t heard = backend_.listen();
    front_.want(true);
    EXPECT_TRUE(backend_.wait(heard, kHour));
    EXPECT_TRUE(backend_.wanted());
    fill(byte);  // a beat that never changes is nobody's
    Milliseconds now{1000};
    for (int i = 0; i < 10; i++) backend_.look(now += Doorbell::kMostSilence);
    EXPECT_FALSE(backend_.speaks());
  }
}

TEST_F(DoorbellTest, APageThatIsCutIsNoFault) {
  connect();
  const uint32_t before = backend_.listen();
  ASSERT_EQ(ftruncate(file_.get(), 0), 0);
  front_.want(true);
  front_.beat(Milliseconds{5});
  backend_.look(Milliseconds{1});
  EXPECT_FALSE(backend_.wanted());
  EXPECT_FALSE(backend_.wait(before, Milliseconds{1}));
  backend_.listen();
  backend_.wake_self();
  front_.leave();
  ASSERT_EQ(ftruncate(file_.get(), Doorbell::kPageBytes), 0);
  const uint32_t heard = backend_.listen();
  front_.want(true);
  EXPECT_TRUE(backend_.wait(heard, kHour));
}

TEST_F(DoorbellTest, WithoutTheFileEachIsAlone) {
  connect();
  backend_.listen();
  front_.disconnect();
  front_.want(true);
  EXPECT_FALSE(backend_.wanted());
  ASSERT_TRUE(front_.connect(file_.get()).ok());
  front_.want(true);
  EXPECT_TRUE(backend_.wanted());
  EXPECT_EQ(front_.rings(), 2u);  // once by connect()
}

// As when it was removed, and each connects to the new one in its time.
TEST_F(DoorbellTest, WhatASideWaitsForIsSaidInTheNextFile) {
  connect();
  const UniqueFd next(memfd_create("next", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(next.get(), Doorbell::kPageBytes), 0);
  const uint32_t heard = backend_.listen();
  ASSERT_TRUE(front_.connect(next.get()).ok());
  front_.want(true);
  EXPECT_FALSE(backend_.wanted());
  ASSERT_TRUE(backend_.connect(next.get()).ok());
  EXPECT_TRUE(backend_.wait(heard, kHour));
  EXPECT_TRUE(backend_.wanted());
  ASSERT_TRUE(backend_.connect(file_.get()).ok());
  const uint32_t again = backend_.listen();
  ASSERT_TRUE(front_.connect(file_.get()).ok());
  EXPECT_TRUE(backend_.wait(again, kHour));
  EXPECT_TRUE(backend_.wanted());
}

}  // namespace
}  // namespace pcache
