// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/histogram.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pcache {
namespace {

TEST(Histogram, EachValueLiesInItsBucket) {
  size_t last = 0;
  for (uint64_t ns = 0; ns < 1u << 20; ns += 1 + ns / 50) {
    const size_t bucket = Histogram::bucket_of(ns);
    EXPECT_GE(bucket, last);
    last = bucket;
    EXPECT_LT(ns, Histogram::upper_ns(bucket));
    EXPECT_TRUE(bucket == 0 || ns >= Histogram::upper_ns(bucket - 1)) << ns;
  }
}

TEST(Histogram, ABucketIsAFifthWideAtMost) {
  for (size_t i = 8; i < Histogram::kBuckets; i++)
    EXPECT_LE(double(Histogram::upper_ns(i)) / double(Histogram::upper_ns(i - 1)), 1.26);
}

TEST(Histogram, QuantilesOfAKnownDistribution) {
  Histogram h;
  EXPECT_EQ(h.quantile_ns(0.5), 0u);
  for (uint64_t ns = 1; ns <= 1000; ns++) h.add(ns);
  EXPECT_EQ(h.count(), 1000u);
  EXPECT_NEAR(double(h.quantile_ns(0.5)), 500, 130);
  EXPECT_NEAR(double(h.quantile_ns(0.99)), 990, 40);
  EXPECT_EQ(h.quantile_ns(1), 1000u);
  EXPECT_EQ(h.max_ns(), 1000u);
}

TEST(Histogram, SubtractLeavesWhatCameSince) {
  Histogram before, h;
  for (const uint64_t ns : {10, 100, 5000}) before.add(ns);
  h.merge(before);
  h.subtract(before);
  EXPECT_EQ(h.count(), 0u);
  EXPECT_EQ(h.max_ns(), 0u);
  h.merge(before);
  h.add(100);
  h.subtract(before);
  EXPECT_EQ(h.count(), 1u);
  EXPECT_EQ(h.count(Histogram::bucket_of(100)), 1u);
  EXPECT_GE(h.max_ns(), 100u) << "known by its bucket";
  EXPECT_LT(h.max_ns(), Histogram::upper_ns(Histogram::bucket_of(100)));
  Histogram longer;
  longer.merge(before);
  longer.add(6001);
  longer.subtract(before);
  EXPECT_EQ(longer.max_ns(), 6001u);
  longer.subtract(before);
  EXPECT_EQ(longer.count(), 1u) << "never below 0";
}

TEST(Histogram, MergeAddsUpAndKeepsTheLongest) {
  Histogram a, b;
  a.add(10);
  b.add(1000000);
  b.add(~0ull);
  a.merge(b);
  EXPECT_EQ(a.count(), 3u);
  EXPECT_EQ(a.max_ns(), ~0ull);
  EXPECT_EQ(a.count(Histogram::bucket_of(1000000)), 1u);
  EXPECT_EQ(a.count(Histogram::kBuckets - 1), 1u) << "what is longer than all counts as the last";
}

}  // namespace
}  // namespace pcache
