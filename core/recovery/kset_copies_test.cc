// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/kset_copies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "recovery/recover.h"
#include "testing/image.h"

namespace pcache {
namespace {

using media::Key;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kLogicalBytes = 64 << 20;
constexpr SegId kA{2};

TEST(KsetCopies, WhatIsAddedTwiceIsFound) {
  constexpr uint32_t kMany = 100000;
  // Equal crcs are not enough, nor are equal places.
  const auto key = [](uint32_t n) {
    return make_key({0, 512}, {SegId{n % 30}, n / 30 % 2000 * 512});
  };
  const auto found = [&](const std::vector<uint32_t>& again) {
    KsetCopies copies;
    for (uint32_t n = 0; n < kMany; n++) {
      const Key one = key(n);
      copies.add(n / 7, {&one, 1});
    }
    for (const uint32_t n : again) {
      const Key one = key(n);
      copies.add(n / 7, {&one, 1});
    }
    return copies.repeated();
  };
  const auto print = [&](uint32_t n) {
    const Key one = key(n);
    return KsetCopies::print_of(n / 7, {&one, 1});
  };
  EXPECT_THAT(found({}), IsEmpty());
  EXPECT_THAT(found({77777, 3, 99999, 3, 0}),
              UnorderedElementsAre(print(0), print(3), print(77777), print(99999)));
}

TEST(KsetCopies, WithoutMemoryNoneIsFound) {
  const Key key = make_key({0, 512}, {kA, 0});
  for (uint64_t pass = 0;; pass++) {
    KsetCopies copies;
    std::vector<uint64_t> found;
    {
      const FailingMemory failing(pass);
      for (int i = 0; i < 2; i++) copies.add(1, {&key, 1});
      found = copies.repeated();
    }
    EXPECT_EQ(found.size(), allocations_failed() > 0 ? 0u : 1u) << pass;
    if (allocations_failed() == 0 || HasFailure()) break;
  }
}

// What attach reports, with data_crc and without.
class CopiedKset : public ::testing::TestWithParam<bool> {
 protected:
  Key page(uint64_t page, CachePos data) {
    const std::vector<std::byte> bytes(kPageBytes, std::byte(page + data.off / kPageBytes + 1));
    image_.memory().poke(image_.off(data), bytes.data(), bytes.size());
    Key key = make_key({page * kPageBytes, kPageBytes}, data);
    key.data_crc = data_crc32c(bytes.data(), bytes.size());
    return key;
  }
  std::vector<std::string> said() {
    LogLines lines;
    const auto frame = load_frame(image_.pmem(), lines.log());
    EXPECT_TRUE(frame.ok());
    RecoverOptions options;
    options.device_bytes = kLogicalBytes;
    image_.memory().forbid_stores();
    EXPECT_TRUE(recover(image_.pmem(), frame.value(), options, lines.log(), &recovered_).ok());
    image_.memory().allow_stores();
    if (!recovered_.copied_kset.empty()) lines.lines.push_back(recovered_.copied_kset);
    return lines.lines;
  }
  CachePos newest_of(uint64_t page) {
    Piece piece;
    Index::Snapshot snapshot;
    recovered_.index->lookup({page * kPageBytes, kPageBytes}, {&piece, 1}, &snapshot);
    return piece.pos;
  }

  Image image_{32, FormatOptions{GetParam()}};
  Recovered recovered_;
};
INSTANTIATE_TEST_SUITE_P(DataCrc, CopiedKset, ::testing::Bool());

TEST_P(CopiedKset, IsToldInOneLine) {
  const std::vector<Key> first{page(0, {kA, 0}), page(1, {kA, 4096})};
  const CachePos second = image_.kset({}, first);
  const CachePos third = image_.kset(second, {page(0, {kA, 8192}), page(2, {kA, 12288})});
  const CachePos fourth = image_.kset(third, first);
  image_.kset(fourth, {page(3, {kA, 16384})});
  EXPECT_THAT(said(), ElementsAre(HasSubstr("log at segment 0:" + std::to_string(third.off) +
                                            ": the kset from 0:0 stands here again")));
  EXPECT_EQ(newest_of(0), (CachePos{kA, 0})) << "the log's order, as for all keys";
  EXPECT_EQ(newest_of(2), (CachePos{kA, 12288}));
}

TEST_P(CopiedKset, IsNotWhatWritebackAppendsOfDamagedData) {
  const std::vector<Key> first{page(0, {kA, 0})};
  const CachePos second = image_.kset({}, first);
  image_.kset(second, first);
  image_.memory().flip_bit(image_.off({kA, 100}));
  for (const std::string& line : said()) EXPECT_THAT(line, HasSubstr("is damaged"));
}

TEST_P(CopiedKset, OfDeadKeysIsNone) {
  image_.generation(kA, 1);
  const std::vector<Key> first{page(0, {kA, 0}), page(1, {kA, 4096})};
  image_.dirty_tail(image_.kset(image_.kset({}, first), first));
  EXPECT_THAT(said(), IsEmpty());
}

TEST_P(CopiedKset, IsNotWhatWritesThePagesAgain) {
  CachePos at;
  for (uint32_t i = 0; i < 200; i++)
    at = image_.kset(at, {page(0, {kA, i * 4096}), page(1, {SegId{3}, i * 4096})});
  EXPECT_THAT(said(), IsEmpty());
}

}  // namespace
}  // namespace pcache
