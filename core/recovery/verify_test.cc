// SPDX-License-Identifier: GPL-2.0-or-later
#include "recovery/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "recovery/replay.h"
#include "testing/image.h"

namespace pcache {
namespace {

using media::Key;
using media::kKeyClean;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kLogicalBytes = 64 << 20;
constexpr SegId kA{2}, kB{3};  // data segments

// With data_crc: keys of 4 KiB pages, with data on media that fits.
class VerifyTest : public ::testing::Test {
 protected:
  Key page(uint64_t page, CachePos data, uint64_t gen = 0, uint32_t flags = 0) {
    const std::vector<std::byte> bytes(kPageBytes, std::byte(page + data.off / kPageBytes + 1));
    image_.memory().poke(image_.off(data), bytes.data(), bytes.size());
    Key key = make_key({page * kPageBytes, kPageBytes}, data, gen, flags);
    key.data_crc = data_crc32c(bytes.data(), bytes.size());
    return key;
  }
  void damage(CachePos data) { image_.memory().flip_bit(image_.off(data)); }
  // By one thread and by three, which must find the same.
  VerifyResult verify() {
    const VerifyResult of_one = verify_by(1);
    lines_.lines.clear();
    const VerifyResult result = verify_by(3);
    EXPECT_EQ(result.clean_dropped, of_one.clean_dropped);
    EXPECT_EQ(result.dirty_bad, of_one.dirty_bad);
    EXPECT_EQ(result.damaged.size(), of_one.damaged.size());
    return result;
  }
  VerifyResult verify_by(unsigned threads) {
    const Bounds bounds{6, kLogicalBytes};
    Tails tails;
    EXPECT_TRUE(tails.load(image_.pmem(), bounds).ok());
    table_ = image_.table(0);
    index_ = Index::create({kLogicalBytes, 4, true, 0}).take();
    EXPECT_TRUE(replay(image_.pmem(), *table_, *index_, tails, bounds).ok());
    image_.memory().forbid_stores();
    const auto result =
        verify_replayed(image_.pmem(), *table_, *index_, tails, lines_.log(), threads);
    image_.memory().allow_stores();
    EXPECT_TRUE(result.ok());
    return result.value();
  }
  // One letter for each sector: . miss, C clean, D dirty.
  std::string mapped(uint64_t page) const {
    std::string text;
    for (uint64_t s = 0; s < kPageBytes / kSectorBytes; s++) {
      Piece piece;
      Index::Snapshot snapshot;
      index_->lookup({page * kPageBytes + s * kSectorBytes, kSectorBytes}, {&piece, 1}, &snapshot);
      text += piece.kind == Piece::Kind::kMiss ? '.' : piece.clean ? 'C' : 'D';
    }
    return text;
  }

  Image image_{6, FormatOptions{true}};
  std::unique_ptr<SegmentTable> table_;
  std::unique_ptr<Index> index_;
  LogLines lines_;
};

TEST_F(VerifyTest, SoundDataIsKept) {
  image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096}, 0, kKeyClean)});
  const VerifyResult result = verify();
  EXPECT_EQ(result.clean_dropped, 0u);
  EXPECT_EQ(result.dirty_bad, 0u);
  EXPECT_EQ(mapped(0), "DDDDDDDD");
  EXPECT_EQ(mapped(1), "CCCCCCCC");
  EXPECT_THAT(lines_.lines, IsEmpty());
}

// More than is looked at together, with damage here and there.
TEST_F(VerifyTest, ALongLog) {
  CachePos pos{};
  uint32_t damaged = 0;
  for (uint32_t i = 0; i < 3 * 4096; i += media::kKeysPerKset) {
    std::vector<Key> keys;
    for (uint32_t k = i; k < i + media::kKeysPerKset; k++) {
      const CachePos data{SegId{2 + k / 4000}, k % 4000 * 4096};
      keys.push_back(page(k, data, 0, k % 2 == 0 ? kKeyClean : 0));
      if (k % 1000 < 2) damage(data), damaged++;
    }
    pos = image_.kset(pos, keys);
  }
  const VerifyResult result = verify();
  EXPECT_EQ(result.clean_dropped + result.dirty_bad, damaged);
  EXPECT_EQ(mapped(1000), "........");
  EXPECT_EQ(mapped(1001), "DDDDDDDD");
  EXPECT_EQ(mapped(1002), "CCCCCCCC");
}

TEST_F(VerifyTest, DamagedCleanDataIsDropped) {
  image_.kset({}, {page(0, {kA, 0}, 0, kKeyClean), page(1, {kA, 4096}, 0, kKeyClean)});
  damage({kA, 4096 + 100});
  const VerifyResult result = verify();
  EXPECT_EQ(result.clean_dropped, 1u);
  EXPECT_EQ(result.dirty_bad, 0u);
  EXPECT_EQ(mapped(0), "CCCCCCCC");
  EXPECT_EQ(mapped(1), "........");
  EXPECT_THAT(lines_.lines, IsEmpty()) << "nothing is lost";
}

TEST_F(VerifyTest, DamagedDirtyDataIsNamedAndKept) {
  image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096})});
  damage({kA, 4096});
  const VerifyResult result = verify();
  EXPECT_EQ(result.dirty_bad, 1u);
  EXPECT_EQ(result.clean_dropped, 0u);
  EXPECT_EQ(mapped(1), "DDDDDDDD") << "a read of it must fail, not show the backing device's";
  EXPECT_THAT(lines_.lines, ElementsAre(HasSubstr("dirty data of range 4096+4096 is damaged "
                                                  "(segment 2:4096)")));
}

TEST_F(VerifyTest, UnreadableMediaIsDamage) {
  image_.kset({}, {page(0, {kA, 0}, 0, kKeyClean), page(1, {kA, 4096})});
  image_.memory().checkpoint();
  image_.memory().make_unreadable(image_.off({kA, 0}));
  image_.memory().make_unreadable(image_.off({kA, 4096}));
  const Bounds bounds{6, kLogicalBytes};
  Tails tails;
  ASSERT_TRUE(tails.load(image_.pmem(), bounds).ok());
  table_ = image_.table(0);
  index_ = Index::create({kLogicalBytes, 4, true, 0}).take();
  ASSERT_TRUE(replay(image_.pmem(), *table_, *index_, tails, bounds).ok());
  const auto result = verify_replayed(image_.pmem(), *table_, *index_, tails, lines_.log());
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result.value().clean_dropped, 1u);
  EXPECT_EQ(result.value().dirty_bad, 1u);
}

// Hazard crc-before-generation: the key's segment has been used again, and its new data is no
// damage.
TEST_F(VerifyTest, ADeadGenerationIsNotLookedAt) {
  image_.generation(kA, 2);
  image_.kset({}, {page(0, {kA, 0}, 1), page(1, {kA, 4096}, 1, kKeyClean), page(2, {kB, 0})});
  damage({kA, 0});
  damage({kA, 4096});
  const VerifyResult result = verify();
  EXPECT_EQ(result.clean_dropped, 0u);
  EXPECT_EQ(result.dirty_bad, 0u);
  EXPECT_THAT(lines_.lines, IsEmpty());
  EXPECT_EQ(mapped(2), "DDDDDDDD");
}

// In the new life the same range may have the same place.
TEST_F(VerifyTest, ADeadKeyOfTheSamePlaceIsNotLookedAt) {
  image_.generation(kA, 2);
  Key dead = page(0, {kA, 0}, 1);
  dead.data_crc ^= 1;
  image_.kset(image_.kset({}, {dead}), {page(0, {kA, 0}, 2)});
  EXPECT_EQ(verify().dirty_bad, 0u);
  EXPECT_EQ(mapped(0), "DDDDDDDD");
}

TEST_F(VerifyTest, WhatIsWhollyOverwrittenIsNotLookedAt) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0}), page(1, {kA, 4096}, 0, kKeyClean)});
  image_.kset(second, {page(0, {kB, 0}), page(1, {kB, 4096})});
  damage({kA, 0});
  damage({kA, 4096});
  const VerifyResult result = verify();
  EXPECT_EQ(result.clean_dropped, 0u);
  EXPECT_EQ(result.dirty_bad, 0u);
  EXPECT_EQ(mapped(0), "DDDDDDDD");
}

// A part can only be checked as a whole: damage in the overwritten part counts for the rest.
TEST_F(VerifyTest, WhatIsPartlyOverwrittenIsCheckedAsAWhole) {
  const CachePos second = image_.kset({}, {page(0, {kA, 0}, 0, kKeyClean), page(1, {kA, 4096})});
  Key inner[2];
  for (uint32_t i = 0; i < 2; i++) {
    inner[i] = page(8 + i, {kB, i * kPageBytes});  // its first sector stands for the whole
    const auto bytes =
        image_.memory().peek<std::array<std::byte, kSectorBytes>>(image_.off({kB, i * kPageBytes}));
    inner[i].off = i * kPageBytes + 3 * kSectorBytes;
    inner[i].len = kSectorBytes;
    inner[i].data_crc = data_crc32c(bytes.data(), bytes.size());
  }
  image_.kset(second, {inner[0], inner[1]});
  damage({kA, 3 * kSectorBytes});
  damage({kA, kPageBytes + 3 * kSectorBytes});
  const VerifyResult result = verify();
  EXPECT_EQ(result.clean_dropped, 1u) << "an extent, in two parts";
  EXPECT_EQ(result.dirty_bad, 1u);
  EXPECT_EQ(mapped(0), "...D....");
  EXPECT_EQ(mapped(1), "DDDDDDDD");
  EXPECT_THAT(lines_.lines, ElementsAre(HasSubstr("range 4096+1536 is damaged"),
                                        HasSubstr("range 6144+2048 is damaged")));
}

// Writeback appends the key of damaged data again: it still counts as one extent.
TEST_F(VerifyTest, TwoKeysOfOneDamagedExtentAreOne) {
  const Key key = page(0, {kA, 0});
  const CachePos second = image_.kset({}, {key});
  image_.dirty_tail(second);
  image_.kset(second, {key});
  damage({kA, 0});
  EXPECT_EQ(verify().dirty_bad, 1u);
  EXPECT_EQ(lines_.lines.size(), 1u);
}

// Only data that the index has is checked, with the later key's crc.
TEST_F(VerifyTest, AnEarlierKeyOfThePlaceWithAnotherCrcIsNotLookedAt) {
  const Key key = page(0, {kA, 0});
  Key wrong = key;
  wrong.data_crc++;
  const CachePos second = image_.kset({}, {wrong});
  image_.dirty_tail(second);
  image_.kset(second, {key});
  EXPECT_EQ(verify().dirty_bad, 0u);
  EXPECT_THAT(lines_.lines, IsEmpty());
  EXPECT_EQ(mapped(0), "DDDDDDDD");
}

}  // namespace
}  // namespace pcache
