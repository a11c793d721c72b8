// SPDX-License-Identifier: GPL-2.0-or-later
// Replay: what the policies miss of generated sequences of reads, beside LRU in the same test.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "policy/log_model_for_test.h"

namespace pcache::policy {
namespace {

constexpr uint64_t kCapacity = 400;

using Pages = std::vector<uint64_t>;

// The lower the page, the more often: page n with 1 / (n + 1)^0.9.
class Zipf {
 public:
  explicit Zipf(uint64_t pages) {
    double sum = 0;
    for (uint64_t n = 0; n < pages; n++) sums_.push_back(sum += std::pow(n + 1, -0.9));
  }
  uint64_t next() {
    const double at = std::uniform_real_distribution<>(0, sums_.back())(random_);
    const auto page = std::lower_bound(sums_.begin(), sums_.end(), at) - sums_.begin();
    // Not ordered by number: neighbours are treated alike.
    return static_cast<uint64_t>(page) * 1000;
  }

 private:
  std::vector<double> sums_;
  std::mt19937_64 random_{1};
};

Pages loop(uint64_t pages, int laps) {
  Pages reads;
  for (int lap = 0; lap < laps; lap++)
    for (uint64_t page = 0; page < pages; page++) reads.push_back(page);
  return reads;
}

Pages zigzag(uint64_t pages, int laps) {
  Pages reads = loop(pages, laps);
  for (int lap = 1; lap < laps; lap += 2)
    std::reverse(reads.begin() + lap * static_cast<int64_t>(pages),
                 reads.begin() + (lap + 1) * static_cast<int64_t>(pages));
  return reads;
}

Pages zipf(uint64_t reads) {
  Zipf zipf(10 * kCapacity);
  Pages pages;
  for (uint64_t i = 0; i < reads; i++) pages.push_back(zipf.next());
  return pages;
}

// The pages that are read most change all the time: each is new, often read, and then never again.
Pages drift(uint64_t reads) {
  Zipf zipf(4 * kCapacity);
  Pages pages;
  for (uint64_t i = 0; i < reads; i++) pages.push_back(1000 * (i / 8) + zipf.next());
  return pages;
}

double misses(PolicyKind kind, const Pages& reads) {
  LogModel log(kind, kCapacity);
  for (uint64_t page : reads) log.read(page);
  EXPECT_LE(log.moved(), 2 * log.appended()) << "data is copied too often";
  return log.count().ratio();
}

double misses_of_lru(const Pages& reads) {
  LruModel lru(kCapacity);
  for (uint64_t page : reads) lru.read(page);
  return lru.count().ratio();
}

TEST(Replay, OfALoopGreaterThanTheCacheAPartIsKept) {
  for (uint64_t pages : {kCapacity * 5 / 4, 2 * kCapacity, 5 * kCapacity}) {
    const Pages reads = loop(pages, 40);
    const double best = 1 - static_cast<double>(kCapacity) / static_cast<double>(pages);
    EXPECT_EQ(misses_of_lru(reads), 1.0);
    EXPECT_EQ(misses(PolicyKind::kFifo, reads), 1.0);
    EXPECT_EQ(misses(PolicyKind::kSecondChance, reads), 1.0);
    EXPECT_LT(misses(PolicyKind::kAdaptive, reads), best + 0.06) << pages;
  }
}

TEST(Replay, AZigzagIsAsGoodAsWithLru) {
  const Pages reads = zigzag(5 * kCapacity, 40);
  const double lru = misses_of_lru(reads);
  EXPECT_LT(lru, 0.82);
  EXPECT_NEAR(misses(PolicyKind::kSecondChance, reads), lru, 0.001);
  EXPECT_LT(misses(PolicyKind::kAdaptive, reads), 1.03 * lru);
}

TEST(Replay, OfPagesThatAreReadMoreOftenMoreAreKeptThanWithLru) {
  const Pages reads = zipf(60'000);
  const double lru = misses_of_lru(reads);
  EXPECT_LT(misses(PolicyKind::kSecondChance, reads), lru);
  EXPECT_GT(misses(PolicyKind::kFifo, reads), 1.05 * lru);
  EXPECT_LT(misses(PolicyKind::kAdaptive, reads), 0.9 * lru);
}

TEST(Replay, WhatIsReadNowIsKeptWhereTheRuleBeforeRefusedIt) {
  const Pages reads = drift(60'000);
  EXPECT_LT(misses(PolicyKind::kAdaptive, reads), 1.05 * misses_of_lru(reads));
}

// The hit ratios of what is read often, under the policy and under LRU, while there is a scan of
// four times the cache (or is none) now and then: a read of the scan after each other read.
std::pair<double, double> hits_beside(bool scans) {
  LogModel log(PolicyKind::kAdaptive, kCapacity);
  LruModel lru(kCapacity);
  Zipf zipf(10 * kCapacity);
  uint64_t scanned = 1'000'000'000, log_hits = 0, lru_hits = 0, reads = 0;
  for (uint64_t i = 0; i < 100 * kCapacity; i++) {
    const uint64_t page = zipf.next();
    const bool log_hit = log.read(page), lru_hit = lru.read(page);
    if (i < 20 * kCapacity || i / (4 * kCapacity) % 2 == 0) continue;
    log_hits += log_hit;
    lru_hits += lru_hit;
    reads++;
    if (!scans) continue;
    log.read(scanned);
    lru.read(scanned++);
  }
  return {static_cast<double>(log_hits) / static_cast<double>(reads),
          static_cast<double>(lru_hits) / static_cast<double>(reads)};
}

TEST(Replay, AScanTakesNextToNothingFromWhatIsReadOften) {
  const auto without = hits_beside(false), with = hits_beside(true);
  EXPECT_LT(with.second, without.second - 0.05) << "LRU is disturbed";
  EXPECT_GT(with.first, without.first - 0.02);
}

TEST(Replay, TheRuleChangesWithTheReads) {
  LogModel log(PolicyKind::kAdaptive, kCapacity);
  const auto misses_of = [&](const Pages& reads) {
    log.forget_counts();
    for (uint64_t page : reads) log.read(page);
    return log.count().ratio();
  };
  for (int turn = 0; turn < 2; turn++) {
    EXPECT_LT(misses_of(loop(2 * kCapacity, 40)), 0.65) << turn;
    EXPECT_TRUE(log.policy().rule() == Rule::kReuse || log.policy().rule() == Rule::kBimodal);
    EXPECT_LT(misses_of(drift(60'000)), 1.1 * misses_of_lru(drift(60'000))) << turn;
    EXPECT_TRUE(log.policy().rule() == Rule::kFifo || log.policy().rule() == Rule::kSecondChance);
  }
  EXPECT_GE(log.policy().changes(), 3u);
}

TEST(Replay, ACacheOfWhichASampleIsWatchedDoesAsWell) {
  constexpr uint64_t kLarge = 16 * 2048;  // one page in 16
  LogModel log(PolicyKind::kAdaptive, kLarge);
  for (int lap = 0; lap < 4; lap++)
    for (uint64_t page = 0; page < 2 * kLarge; page++) log.read(page);
  log.forget_counts();
  for (uint64_t page = 0; page < 2 * kLarge; page++) log.read(page);
  EXPECT_LT(log.count().ratio(), 0.55);
  // Twice each, the second time soon: all that is admitted pays once.
  for (uint64_t page = 1 << 20; page < (1 << 20) + 4 * kLarge; page++) {
    log.read(page);
    log.read(page - 1000);
  }
  EXPECT_TRUE(log.policy().rule() == Rule::kFifo || log.policy().rule() == Rule::kSecondChance);
}

// Of a cache that is full when it is attached, the policy knows nothing.
TEST(Replay, AFullCacheOfWhichThePolicyKnowsNothing) {
  LogModel log(PolicyKind::kAdaptive, kCapacity);
  log.hold(1'000'000, kCapacity);
  for (int lap = 0; lap < 4; lap++)
    for (uint64_t page = 0; page < kCapacity / 2; page++) log.read(1000 * page);
  log.forget_counts();
  for (uint64_t page = 0; page < kCapacity / 2; page++) log.read(1000 * page);
  EXPECT_LT(log.count().ratio(), 0.1);
}

// Each page is written, read once, and never used again. A FIFO has it all, unless it keeps what it
// need not.
TEST(Replay, WritesAreCountedWhenRulesAreCompared) {
  constexpr uint64_t kDistance = kCapacity * 3 / 4;
  LogModel log(PolicyKind::kAdaptive, kCapacity);
  for (uint64_t i = 0; i < 20'000; i++) {
    log.write(1000 * i);
    if (i >= kDistance) log.read(1000 * (i - kDistance));
  }
  EXPECT_EQ(log.policy().rule(), Rule::kFifo);
}

}  // namespace
}  // namespace pcache::policy
