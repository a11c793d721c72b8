// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/retention.h"

#include <gtest/gtest.h>

namespace pcache::policy {
namespace {

constexpr uint64_t kBytes = 1 << 20;

uint8_t mark_at(const Retention& retention, MediaOff at) {
  return retention.marks()[at.v / kPageBytes].load();
}

void read_once(Retention* retention, MediaOff at) {
  note_page_hit(retention, retention->marks(), at, at.v);
}

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
    note_hit(&retention, retention.marks(), at, 0, 2 * kPageBytes);
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

}  // namespace
}  // namespace pcache::policy
