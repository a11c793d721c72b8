// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/retention.h"

#include <gtest/gtest.h>

#include <cerrno>

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

TEST(Retention, AdaptiveThatIsSetLaterIsToldOfWhatItSamples) {
  Retention later(PolicyKind::kFifo, kBytes, kBytes);
  ASSERT_TRUE(later.set_kind(PolicyKind::kAdaptive).ok());
  Retention first(PolicyKind::kAdaptive, kBytes, kBytes);
  for (Retention* const retention : {&later, &first}) {
    retention->passed(kPageBytes, kPageBytes);
    // A window of half the capacity goes on: what returns does so too late for the first rule.
    for (uint64_t window = 0; window < 200; window++)
      for (uint64_t i = 0; i < 4 * kBytes / 2; i += kPageBytes)
        (void)retention->admits({window * kBytes + i % (kBytes / 2), kPageBytes});
  }
  EXPECT_EQ(later.rule(), first.rule());
  EXPECT_EQ(later.changes(), first.changes());
  EXPECT_GT(first.changes(), 0u) << "or this shows nothing";
}

// There is no address space for the marks: nothing has changed, and the next time is another one.
TEST(Retention, WithoutMemoryItStaysAsItIs) {
  Retention retention(PolicyKind::kFifo, uint64_t{1} << 62, kBytes);
  for (int i = 0; i < 2; i++) {
    const Status set = retention.set_kind(PolicyKind::kAdaptive);
    ASSERT_FALSE(set.ok());
    EXPECT_EQ(set.error().code, ENOMEM);
    EXPECT_EQ(retention.kind(), PolicyKind::kFifo);
    EXPECT_EQ(retention.marks(), nullptr);
  }
}

}  // namespace
}  // namespace pcache::policy
