// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/shadow_log.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <unordered_map>

#include "policy/page_hash.h"

namespace pcache::policy {
namespace {

bool read(ShadowLog& log, uint64_t page, bool has_room = true) {
  return log.access(page, page_hash(page), false, has_room);
}
bool write(ShadowLog& log, uint64_t page) { return log.access(page, page_hash(page), true, true); }

// The same with a queue that pages are moved in, and rules of its own.
class PlainLog {
 public:
  PlainLog(Rule rule, uint64_t capacity)
      : rule_(rule),
        capacity_(capacity),
        admission_(capacity, rule == Rule::kReuse),
        keeper_(capacity) {}

  bool read(uint64_t page) {
    if (auto found = was_hit_.find(page); found != was_hit_.end()) return found->second = true;
    const bool has_room = queue_.size() < capacity_;
    if (!admission_.admits(rule_, page, page_hash(page)) && !has_room) return false;
    while (queue_.size() >= capacity_) {
      const uint64_t oldest = queue_.front();
      queue_.pop_front();
      if (keeper_.stays(rule_, was_hit_[oldest])) {
        queue_.push_back(oldest);
        was_hit_[oldest] = false;
      } else {
        was_hit_.erase(oldest);
      }
    }
    queue_.push_back(page);
    was_hit_[page] = false;
    return false;
  }

 private:
  const Rule rule_;
  const uint64_t capacity_;
  Admission admission_;
  Keeper keeper_;
  std::deque<uint64_t> queue_;
  std::unordered_map<uint64_t, bool> was_hit_;
};

TEST(ShadowLog, HasWhatAPlainLogHasUnderEachRule) {
  for (size_t rule = 0; rule < kRules; rule++) {
    for (uint64_t capacity : {1, 2, 50, 300}) {
      ShadowLog shadow(static_cast<Rule>(rule), capacity);
      PlainLog plain(static_cast<Rule>(rule), capacity);
      std::mt19937_64 random(rule);
      uint64_t hits = 0;
      for (int i = 0; i < 10'000; i++) {
        const uint64_t page = random() % (1 + random() % (4 * capacity));  // low ones more often
        const bool hit = read(shadow, page);
        ASSERT_EQ(hit, plain.read(page)) << "rule " << rule << ", access " << i;
        hits += hit;
      }
      EXPECT_GT(hits, 500u);
      EXPECT_EQ(shadow.pages(), capacity);
    }
  }
}

TEST(ShadowLog, AWriteIsAlwaysAppended) {
  ShadowLog log(Rule::kBimodal, 10);
  for (uint64_t page = 0; page < 1000; page += 100) EXPECT_FALSE(write(log, page));
  for (uint64_t page = 10'000; page < 11'000; page += 100) {
    EXPECT_FALSE(write(log, page));
    EXPECT_TRUE(read(log, page));
  }
}

TEST(ShadowLog, WhatIsWrittenAgainIsNewAlsoInAFifo) {
  ShadowLog log(Rule::kFifo, 4);
  for (uint64_t page = 0; page < 4; page++) EXPECT_FALSE(write(log, page));
  EXPECT_TRUE(write(log, 0));
  for (uint64_t page = 10; page < 13; page++) EXPECT_FALSE(read(log, page));
  EXPECT_TRUE(read(log, 0));
  EXPECT_FALSE(read(log, 1));
}

TEST(ShadowLog, WhatIsWrittenIsNotHit) {
  ShadowLog log(Rule::kSecondChance, 4);
  for (uint64_t page = 0; page < 4; page++) write(log, page);
  write(log, 0);
  read(log, 1);
  for (uint64_t page = 10; page < 14; page++) read(log, page);
  EXPECT_FALSE(read(log, 0)) << "at the tail again, where only its last place counts";
}

TEST(ShadowLog, InACacheThatIsFullOnlyWhatTheRuleAdmitsTakesRoom) {
  ShadowLog all(Rule::kSecondChance, 1000), few(Rule::kReuse, 1000);
  for (uint64_t page = 0; page < 500'000; page += 1000) {
    read(all, page, /*has_room=*/false);
    read(few, page, /*has_room=*/false);
  }
  EXPECT_EQ(all.pages(), 500u);
  EXPECT_LT(few.pages(), 30u);
}

TEST(ShadowLog, WhereAllPagesAreWrittenAgainRoomIsFoundAllTheSame) {
  ShadowLog log(Rule::kSecondChance, 100);
  for (int turn = 0; turn < 10; turn++)
    for (uint64_t page = 0; page < 100; page++) write(log, page);
  EXPECT_FALSE(write(log, 1000));
  EXPECT_TRUE(read(log, 1000));
}

}  // namespace
}  // namespace pcache::policy
