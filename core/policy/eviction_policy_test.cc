// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/eviction_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "policy/log_model_for_test.h"

namespace pcache::policy {
namespace {

constexpr uint64_t kLarge = 1 << 20;  // one page in 512 is sampled

TEST(EvictionPolicy, FifoAndSecondChanceAdmitAllAndDifferAtTheTail) {
  auto fifo = EvictionPolicy::make(PolicyKind::kFifo, 100);
  auto second_chance = EvictionPolicy::make(PolicyKind::kSecondChance, 100);
  for (auto* policy : {&fifo, &second_chance}) {
    for (uint64_t page = 0; page < 1000; page++) {
      EXPECT_TRUE((*policy)->admits(page, 1, false));
      EXPECT_EQ((*policy)->told_of_hit(page, false), Mark::kHit);
      (*policy)->wrote(page, 1);
    }
    EXPECT_FALSE((*policy)->stays(Mark::kNotHit));
    EXPECT_EQ((*policy)->changes(), 0u);
  }
  EXPECT_FALSE(fifo->stays(Mark::kHit));
  EXPECT_TRUE(second_chance->stays(Mark::kHit));
  EXPECT_EQ(std::string(name_of(fifo->rule())), "fifo");
  EXPECT_EQ(std::string(name_of(second_chance->rule())), "second_chance");
}

TEST(EvictionPolicy, AdaptiveRefusesMostOfAScanButNothingThatThereIsRoomFor) {
  auto policy = EvictionPolicy::make(PolicyKind::kAdaptive, kLarge);
  uint64_t admitted = 0;
  for (uint64_t page = 0; page < 100'000; page++) {
    EXPECT_TRUE(policy->admits(2'000'000 + page, 1, true));
    admitted += policy->admits(page, 1, false);
  }
  EXPECT_GT(admitted, 800u);
  EXPECT_LT(admitted, 3000u);
}

TEST(EvictionPolicy, AdaptiveIsToldOfAPageOnceAndOfItsSampleEachTime) {
  auto policy = EvictionPolicy::make(PolicyKind::kAdaptive, kLarge);
  uint64_t sampled = 0;
  for (uint64_t page = 0; page < 100'000; page++) {
    const Mark mark = policy->told_of_hit(page, false);
    EXPECT_EQ(policy->told_of_hit(page, false), mark);
    sampled += mark == Mark::kHitSample;
  }
  EXPECT_NEAR(static_cast<double>(sampled), 100'000.0 / 2048, 30);
  EXPECT_TRUE(policy->stays(Mark::kHit));
  EXPECT_TRUE(policy->stays(Mark::kHitSample));
  EXPECT_FALSE(policy->stays(Mark::kNotHit));
}

TEST(EvictionPolicy, AnotherIsFollowedFromThenOn) {
  auto policy = EvictionPolicy::make(PolicyKind::kAdaptive, kLarge);
  policy->set_kind(PolicyKind::kFifo, kLarge);
  for (uint64_t page = 0; page < 10'000; page++) EXPECT_TRUE(policy->admits(page, 1, false));
  EXPECT_FALSE(policy->stays(Mark::kHit));
  policy->set_kind(PolicyKind::kSecondChance, kLarge);
  EXPECT_TRUE(policy->stays(Mark::kHit));
  policy->set_kind(PolicyKind::kAdaptive, kLarge);
  uint64_t admitted = 0;
  for (uint64_t page = 0; page < 10'000; page++) admitted += policy->admits(page, 1, false);
  EXPECT_LT(admitted, 1000u);
}

TEST(EvictionPolicy, AdaptiveBeginsWhenItIsFirstSet) {
  for (const PolicyKind first : {PolicyKind::kFifo, PolicyKind::kSecondChance}) {
    auto policy = EvictionPolicy::make(first, kLarge);
    EXPECT_EQ(policy->sample_limit(), 0u);
    policy->set_kind(PolicyKind::kAdaptive, kLarge);
    EXPECT_EQ(policy->kind(), PolicyKind::kAdaptive);
    EXPECT_EQ(policy->sample_limit(),
              EvictionPolicy::make(PolicyKind::kAdaptive, kLarge)->sample_limit());
    uint64_t admitted = 0, sampled = 0;
    for (uint64_t page = 0; page < 100'000; page++) {
      admitted += policy->admits(page, 1, false);
      sampled += policy->told_of_hit(page, false) == Mark::kHitSample;
    }
    EXPECT_LT(admitted, 3000u);
    EXPECT_NEAR(static_cast<double>(sampled), 100'000.0 / 2048, 30);
  }
}

TEST(EvictionPolicy, ACapacityOfOnePageWorks) {
  for (auto kind : {PolicyKind::kFifo, PolicyKind::kSecondChance, PolicyKind::kAdaptive}) {
    LogModel log(kind, 1);
    for (uint64_t i = 0; i < 1000; i++) {
      EXPECT_EQ(log.read(7), i > 0);
    }
    log.write(8);
    EXPECT_TRUE(log.read(8));
  }
}

TEST(EvictionPolicy, TheSameCallsHaveTheSameAnswers) {
  std::vector<bool> hits[2];
  for (auto& of_run : hits) {
    LogModel log(PolicyKind::kAdaptive, 200);
    for (uint64_t i = 0; i < 20'000; i++) of_run.push_back(log.read(page_hash(i) % 1000 % 700));
  }
  EXPECT_EQ(hits[0], hits[1]);
}

TEST(EvictionPolicy, ManyThreadsCallItAtOnce) {
  auto policy = EvictionPolicy::make(PolicyKind::kAdaptive, 2000);
  std::vector<std::thread> threads;
  for (uint64_t id = 0; id < 3; id++) {
    threads.emplace_back([&policy, id] {
      for (uint64_t i = 0; i < 20'000; i++) {
        const uint64_t page = page_hash(i + id) % 5000;
        policy->admits(page, 1, false);
        policy->told_of_hit(page + 1, false);
        policy->wrote(page + 2, 1);
      }
    });
  }
  uint64_t stayed = 0;
  for (int i = 0; i < 20'000; i++) stayed += policy->stays(Mark::kHit);
  for (auto& thread : threads) thread.join();
  EXPECT_LE(stayed, 20'000u * 62 / 63 + 1) << "2000 / 32 in a row";
}

// A loop of twice the capacity, in extents of many pages: each is one miss, one decision and one
// mark, and takes the room of all its pages.
TEST(EvictionPolicy, LongExtentsCountAsTheirPages) {
  constexpr uint64_t kPages = 64, kExtents = 1000, kCapacity = kExtents / 2;
  const auto policy = EvictionPolicy::make(PolicyKind::kAdaptive, kCapacity * kPages);
  std::deque<std::pair<uint64_t, Mark>> log;
  const auto append = [&](uint64_t extent) {
    while (log.size() == kCapacity) {
      const auto [oldest, mark] = log.front();
      log.pop_front();
      if (policy->stays(mark, kPages)) log.emplace_back(oldest, Mark::kNotHit);
    }
    log.emplace_back(extent, Mark::kNotHit);
  };
  uint64_t hits = 0;
  for (int pass = 0; pass < 8; pass++) {
    hits = 0;
    for (uint64_t extent = 0; extent < kExtents; extent++) {
      const auto held = std::find_if(log.begin(), log.end(),
                                     [extent](const auto& one) { return one.first == extent; });
      if (held != log.end()) {
        hits++;
        for (uint64_t page = 0; page < kPages && held->second != Mark::kHit; page++)
          held->second = policy->told_of_hit(extent * kPages + page, log.size() < kCapacity);
      } else if (policy->admits(extent * kPages, kPages, log.size() < kCapacity)) {
        append(extent);
      }
    }
  }
  EXPECT_GT(hits, kExtents * 2 / 5) << "LRU has none, and a half is the most";
}

}  // namespace
}  // namespace pcache::policy
