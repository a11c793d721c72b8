// SPDX-License-Identifier: GPL-2.0-or-later
#include "stripe/stripes.h"

#include <gmock/gmock.h>

#include <set>
#include <thread>

#include "base/process_barrier.h"
#include "request/request_for_test.h"

namespace pcache {
namespace {

TEST(FillTable, TokensAreNeverUsedTwice) {
  FillTable table;
  Fill* const fill = reinterpret_cast<Fill*>(0x1000);
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; i++) {
    const FillToken token = table.add(fill);
    EXPECT_NE(token.v, 0u);
    EXPECT_LT(token.v, 1ull << 60) << "an index slot has no more room";
    EXPECT_TRUE(seen.insert(token.v).second);
    EXPECT_EQ(table.find(token), fill);
    table.remove(token);
    EXPECT_EQ(table.find(token), nullptr);
  }
}

TEST(FillTable, TokensFitIntoASlotForEver) {
  FillTable table((1ull << 40) - 3);
  for (int i = 0; i < 8; i++) {
    const FillToken token = table.add(reinterpret_cast<Fill*>(0x1000));
    EXPECT_LT(token.v, 1ull << 60);
    EXPECT_NE(token.v, 0u);
    EXPECT_NE(table.find(token), nullptr);
    table.remove(token);
  }
}

TEST(FillTable, FindsEachOfMany) {
  FillTable table;
  const auto fill = [](uintptr_t i) { return reinterpret_cast<Fill*>(0x1000 + 64 * i); };
  std::vector<FillToken> tokens;
  for (uintptr_t i = 0; i < 50; i++) tokens.push_back(table.add(fill(i)));
  for (uintptr_t i = 0; i < 50; i += 2) table.remove(tokens[i]);
  const FillToken again = table.add(fill(99));  // in a place used before
  for (uintptr_t i = 0; i < 50; i++) {
    EXPECT_EQ(table.find(tokens[i]), i % 2 ? fill(i) : nullptr);
  }
  EXPECT_EQ(table.find(again), fill(99));
  EXPECT_EQ(table.find(FillToken{}), nullptr);
}

class StripesTest : public RequestTest {};

TEST_F(StripesTest, ARangeAlwaysHasTheSameStripe) {
  start();
  for (uint64_t range = 0; range < 8; range++) {
    Stripe* const stripe = &stripes_->of(range * kRangeBytes);
    EXPECT_EQ(stripe, &stripes_->of((range + 1) * kRangeBytes - 1));
    EXPECT_EQ(stripe, &stripes_->of((range + 4) * kRangeBytes));
    EXPECT_NE(stripe, &stripes_->of((range + 1) * kRangeBytes));
  }
}

TEST(StripeNumber, RegionsOf128MiBShareNoStripe) {
  constexpr uint64_t kRegion = (128 << 20) / kRangeBytes, kRegions = Stripes::kMost / 8;
  std::set<uint64_t> of_all;
  for (uint64_t region = 0; region < kRegions; region++) {
    std::set<uint64_t> of_region;
    for (uint64_t range = region * kRegion; range < (region + 1) * kRegion; range++) {
      of_region.insert(stripe_number(range) % Stripes::kMost);
      EXPECT_NE(stripe_number(range), stripe_number(range + 1)) << "neighbours meet: " << range;
    }
    EXPECT_EQ(of_region.size(), 8u);
    of_all.merge(of_region);
    EXPECT_TRUE(of_region.empty()) << "shared with an earlier region: " << region;
  }
  EXPECT_EQ(of_all.size(), Stripes::kMost) << "some stripes are never used";
}

TEST_F(StripesTest, ARunIsOfOneStripeAndOfSoManyAtMost) {
  start();
  std::vector<uint64_t> offs(Stripes::kMostInOneGo + 3, kRangeBytes);
  offs.push_back(0);
  const auto same = [](uint64_t off) { return off; };
  const std::span<const uint64_t> all(offs);
  EXPECT_EQ(stripes_->run_from(all, 0, same).size(), Stripes::kMostInOneGo);
  EXPECT_EQ(stripes_->run_from(all, Stripes::kMostInOneGo, same).size(), 3u);
  EXPECT_EQ(stripes_->run_from(all, offs.size() - 1, same).size(), 1u);
}

TEST_F(StripesTest, ByStripeKeepsTheOrderWithinEach) {
  start();
  std::vector<uint64_t> offs;
  for (uint64_t i = 0; i < 300; i++) offs.push_back(i * 5 % 13 * kRangeBytes);
  const auto same = [](uint64_t off) { return off; };
  const auto order = stripes_->by_stripe(std::span<const uint64_t>(offs), same);
  EXPECT_EQ(std::set<uint32_t>(order.begin(), order.end()).size(), offs.size());
  std::set<const Stripe*> seen;
  for (size_t i = 0; i < order.size(); i++) {
    const Stripe* const stripe = &stripes_->of(offs[order[i]]);
    if (i > 0 && stripe == &stripes_->of(offs[order[i - 1]]))
      EXPECT_LT(order[i - 1], order[i]);
    else
      EXPECT_TRUE(seen.insert(stripe).second) << "it has come before: " << i;
  }
  EXPECT_TRUE(stripes_->by_stripe(std::span<const uint64_t>(), same).empty());
}

TEST_F(StripesTest, CloseOldClosesWhatItHasSeenBefore) {
  start();
  ASSERT_EQ(write(0, filled(512, 1)), 0);
  ASSERT_TRUE(stripes_->close_old().ok());
  ASSERT_EQ(write(kRangeBytes, filled(512, 2)), 0);
  ASSERT_TRUE(stripes_->close_old().ok());
  EXPECT_EQ(logged_keys().size(), 1u) << "the younger one stands through one more tick";
  ASSERT_TRUE(stripes_->close_old().ok());
  EXPECT_EQ(logged_keys().size(), 2u);
}

TEST_F(StripesTest, CloseOldGivesABiasBack) {
  if (!process_barrier_available()) GTEST_SKIP() << "membarrier(2) is not permitted here";
  start();
  (void)this_thread_serial();  // or this thread would get what the writer leaves behind
  BiasedMutex& mu = stripes_->of(0).mu;
  std::thread([&] {
    for (int i = 0; i < 5000 && !mu.is_biased(); i++) ASSERT_EQ(write(0, filled(512, 1)), 0);
    ASSERT_EQ(write(0, filled(512, 1)), 0);
  }).join();
  for (int tick = 0; tick < 2; tick++) ASSERT_TRUE(stripes_->close_old().ok());
  EXPECT_EQ(stripes_->open_keys(), 0u);
  EXPECT_TRUE(mu.is_biased());
}

// What a tick could not write for want of space, a later tick writes: its keys are acknowledged,
// and nobody may come to flush them.
TEST_F(StripesTest, CloseOldTriesAgainWhatFoundNoRoom) {
  RequestOptions options;
  options.segments = 3;
  options.log_reserve = 0;
  options.log_head = media::kSegDataBytes - 128;  // one kset of one key, and a LAST
  start(options);
  const SegId taken = *table_->take_for_data();
  ASSERT_EQ(write(0, filled(512, 1), PCACHE_REQ_FUA), 0);
  ASSERT_EQ(write(0, filled(512, 2)), 0);
  ASSERT_TRUE(stripes_->close_old().ok());
  EXPECT_FALSE(stripes_->close_old().ok()) << "no room for the log";
  table_->finish_filling(taken, 0);  // there is now
  ASSERT_TRUE(stripes_->close_old().ok());
  EXPECT_EQ(logged_keys().size(), 2u) << "still queued in memory only";
}

}  // namespace
}  // namespace pcache
