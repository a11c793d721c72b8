// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/retention.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "base/forbid_for_test.h"

namespace pcache::policy {
namespace {

constexpr uint64_t kBytes = 1 << 20;

uint8_t mark_at(const Retention& retention, MediaOff at) {
  return retention.marks()[at.v / kPageBytes].load();
}

void read_once(Retention* retention, MediaOff at) { note_page_hit(*retention, at, at.v); }

TEST(Retention, WhatCameAheadIsHitFromItsSecondReadOn) {
  Retention retention(PolicyKind::kSecondChance, kBytes, kBytes);
  const MediaOff at{3 * kPageBytes};
  retention.came_ahead(at, kPageBytes);
  EXPECT_EQ(retention.mark(at, kPageBytes), Mark::kNotHit);
  read_once(&retention, at);
  EXPECT_EQ(retention.mark(at, kPageBytes), Mark::kNotHit);
  read_once(&retention, at);
  EXPECT_EQ(retention.mark(at, kPageBytes), Mark::kHit);
  retention.came_ahead(at, kPageBytes);
  EXPECT_EQ(retention.mark(at, kPageBytes), Mark::kHit) << "a neighbour on the same page";
  retention.forget_marks(at, kPageBytes);
  EXPECT_EQ(mark_at(retention, at), 0);
}

TEST(Retention, AHitOfAnExtentCountsEachOfItsPages) {
  Retention retention(PolicyKind::kSecondChance, kBytes, kBytes);
  const MediaOff at{0};
  retention.came_ahead(at, 2 * kPageBytes);
  for (const Mark after : {Mark::kNotHit, Mark::kHit}) {
    note_hit(retention, at, 0, 2 * kPageBytes);
    EXPECT_EQ(retention.mark(at, kPageBytes), after);
    EXPECT_EQ(retention.mark(at + kPageBytes, kPageBytes), after);
  }
}

TEST(Retention, KeepsAllUnlessItRemembersWhatItLetPass) {
  for (const PolicyKind kind : {PolicyKind::kFifo, PolicyKind::kSecondChance}) {
    Retention retention(kind, kBytes, kBytes);
    retention.passed(kPageBytes, kPageBytes);
    EXPECT_TRUE(retention.keeps_all());
  }
  Retention adaptive(PolicyKind::kAdaptive, kBytes, kBytes);
  EXPECT_TRUE(adaptive.keeps_all()) << "there is room";
  adaptive.passed(kPageBytes, kPageBytes);
  EXPECT_EQ(adaptive.keeps_all(), adaptive.rule() != Rule::kReuse);
  adaptive.grew();
  EXPECT_TRUE(adaptive.keeps_all());
}

TEST(Retention, AFifoHasNoMarksUntilAnotherIsSet) {
  Retention retention(PolicyKind::kFifo, kBytes, kBytes, 4 * kBytes);
  const MediaOff at{kBytes + 3 * kPageBytes};
  EXPECT_EQ(retention.marks(), nullptr);
  ASSERT_TRUE(retention.make_room(2 * kBytes).ok());
  read_once(&retention, at);
  retention.came_ahead(at, kPageBytes);
  retention.forget_marks(at, kPageBytes);
  EXPECT_EQ(retention.mark(at, kPageBytes), Mark::kNotHit);
  ASSERT_TRUE(retention.set_kind(PolicyKind::kSecondChance).ok());
  read_once(&retention, at);
  EXPECT_EQ(retention.mark(at, kPageBytes), Mark::kHit) << "of the media as they have grown";
  const auto* const marks = retention.marks();
  ASSERT_TRUE(retention.set_kind(PolicyKind::kFifo).ok());
  EXPECT_FALSE(retention.stays(Mark::kHit, kPageBytes, false));
  ASSERT_TRUE(retention.set_kind(PolicyKind::kAdaptive).ok());
  EXPECT_EQ(retention.marks(), marks) << "they stay where they are";
  EXPECT_EQ(retention.mark(at, kPageBytes), Mark::kHit);
  ASSERT_TRUE(retention.make_room(4 * kBytes).ok());
  read_once(&retention, MediaOff{4 * kBytes - kPageBytes});
  EXPECT_EQ(retention.mark(MediaOff{4 * kBytes - kPageBytes}, kPageBytes), Mark::kHit);
}

// Reads of a window that goes on, then writes of it: what returns does so too late for the first
// rule. The writes are of whole pages, so the sample's limit alone says which are told.
void use(Retention* retention, uint64_t windows) {
  constexpr uint64_t kWindow = kBytes / 2;
  for (uint64_t window = 0; window < windows; window++) {
    const uint64_t first = window * kBytes;
    for (uint64_t i = 0; i < 4 * kWindow; i += kPageBytes)
      (void)retention->admits({first + i % kWindow, kPageBytes});
    if (window % 3 == 0)
      for (uint64_t off = first; off < first + kWindow; off += kPageBytes)
        retention->wrote(off, kPageBytes);
  }
}

TEST(Retention, AdaptiveThatIsSetLaterIsToldOfWhatItSamples) {
  Retention later(PolicyKind::kFifo, kBytes, kBytes);
  ASSERT_TRUE(later.set_kind(PolicyKind::kAdaptive).ok());
  Retention first(PolicyKind::kAdaptive, kBytes, kBytes);
  for (Retention* const retention : {&later, &first}) {
    retention->passed(kPageBytes, kPageBytes);
    use(retention, 200);
  }
  EXPECT_EQ(later.rule(), first.rule());
  EXPECT_EQ(later.changes(), first.changes());
  EXPECT_GT(first.changes(), 0u) << "or this shows nothing";
}

TEST(Retention, WritesAreToldFromThenOn) {
  // One page in two is of the sample.
  constexpr uint64_t kCapacity = 1024 * kPageBytes;
  Retention retention(PolicyKind::kSecondChance, kBytes, kCapacity);
  Retention reads(PolicyKind::kSecondChance, kBytes, kCapacity);
  for (Retention* const each : {&retention, &reads}) {
    each->passed(kPageBytes, kPageBytes);
    ASSERT_TRUE(each->set_kind(PolicyKind::kAdaptive).ok());
    EXPECT_EQ(each->rule(), Rule::kReuse) << "which caches no first miss, and what is written";
  }
  const auto round = [](Retention* each, uint64_t from, bool written) {
    for (uint64_t page = from; page < from + 400; page++) {
      if (written) each->wrote(page * kPageBytes, kPageBytes);
      for (int i = 0; i < 3; i++) (void)each->admits({page * kPageBytes, kPageBytes});
    }
  };
  for (uint64_t from = 0; from < 40'000; from += 400) {
    round(&retention, from, true);
    round(&reads, from, false);
  }
  EXPECT_NE(retention.changes(), reads.changes());
}

// Under second_chance the policy is told of nothing, and all that was hit is kHit.
TEST(Retention, WhatWasHitBeforeIsToldOfOnceMore) {
  Retention retention(PolicyKind::kSecondChance, kBytes, kBytes);
  const MediaOff hit{3 * kPageBytes}, other{4 * kPageBytes};
  read_once(&retention, hit);
  ASSERT_EQ(mark_at(retention, hit), Retention::kHit);
  ASSERT_TRUE(retention.set_kind(PolicyKind::kAdaptive).ok());
  EXPECT_NE(mark_at(retention, hit), Retention::kHit);
  EXPECT_EQ(retention.mark(hit, kPageBytes), Mark::kHit) << "and it stays all the same";
  EXPECT_EQ(mark_at(retention, other), 0);
  // All pages are of the sample of so small a cache.
  read_once(&retention, hit);
  const uint8_t sampled = mark_at(retention, hit);
  ASSERT_TRUE(retention.set_kind(PolicyKind::kFifo).ok());
  ASSERT_TRUE(retention.set_kind(PolicyKind::kAdaptive).ok());
  EXPECT_EQ(mark_at(retention, hit), sampled) << "the sample has gone on";
}

TEST(Retention, ItIsMadeForWhatIsKeptThen) {
  constexpr uint64_t kLarge = uint64_t{64} << 30, kSmall = uint64_t{16} << 30;
  Retention retention(PolicyKind::kFifo, kBytes, kLarge);
  retention.set_capacity(kSmall);
  ASSERT_TRUE(retention.set_kind(PolicyKind::kAdaptive).ok());
  EXPECT_EQ(retention.sample_limit(),
            Retention(PolicyKind::kAdaptive, kBytes, kSmall).sample_limit());
  EXPECT_NE(retention.sample_limit(),
            Retention(PolicyKind::kAdaptive, kBytes, kLarge).sample_limit());
}

TEST(Retention, AnotherIsSetBesideThreadsThatAsk) {
  Retention retention(PolicyKind::kFifo, kBytes, kBytes, 4 * kBytes);
  std::atomic<bool> set{false};
  std::vector<std::thread> threads;
  for (uint64_t id = 0; id < 3; id++)
    threads.emplace_back([&retention, &set, id] {
      for (uint64_t i = 0; i < 5000 || !set.load(); i++) {
        const MediaOff at{i % (kBytes / kPageBytes) * kPageBytes};
        note_hit(retention, at, at.v, kPageBytes);
        retention.wrote(at.v, kPageBytes);
        (void)retention.admits({at.v, kPageBytes});
        if (i % 16 == id) retention.forget_marks(at, kPageBytes);
        if (id == 0) {
          (void)retention.stays(retention.mark(at, kPageBytes), kPageBytes, false);
          retention.passed(kPageBytes, kPageBytes);
        }
      }
    });
  for (const PolicyKind kind : {PolicyKind::kSecondChance, PolicyKind::kAdaptive, PolicyKind::kFifo,
                                PolicyKind::kAdaptive}) {
    EXPECT_TRUE(retention.set_kind(kind).ok());
    EXPECT_TRUE(retention.make_room(2 * kBytes).ok());
    (void)retention.rule();
  }
  set.store(true);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(retention.kind(), PolicyKind::kAdaptive);
}

// There is no address space for the marks: the next time is another one.
TEST(Retention, WithoutAddressSpaceItStaysAsItIs) {
  Retention retention(PolicyKind::kFifo, uint64_t{1} << 62, kBytes);
  for (int i = 0; i < 2; i++) {
    const Status set = retention.set_kind(PolicyKind::kAdaptive);
    ASSERT_FALSE(set.ok());
    EXPECT_EQ(set.error().code, ENOMEM);
    EXPECT_EQ(retention.kind(), PolicyKind::kFifo);
    EXPECT_EQ(retention.marks(), nullptr);
  }
}

// There is address space, and no memory in it: nothing is left mapped.
TEST(Retention, WithoutMemoryItStaysAsItIs) {
  const pid_t child = fork();
  if (child == 0) {
    Retention retention(PolicyKind::kFifo, kBytes, kBytes, 4 * kBytes);
    forbid_in_this_thread(SYS_mprotect, ENOMEM);
    bool stays = true;
    for (int i = 0; i < 2; i++)
      stays = stays && !retention.set_kind(PolicyKind::kSecondChance).ok() &&
              retention.kind() == PolicyKind::kFifo && retention.marks() == nullptr;
    _exit(stays ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace pcache::policy
