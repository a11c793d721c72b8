// SPDX-License-Identifier: GPL-2.0-or-later
#include "format/other_version.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "format/codec.h"

namespace pcache {
namespace {

using Page = std::array<std::byte, kSuperblockPageBytes>;

// The crcs were made by zlib: crc32(bytes, seed ^ 0xffffffff) ^ 0xffffffff.
Page page_of(uint32_t crc) {
  Page page{};
  media::Superblock superblock{};
  superblock.crc = crc;
  superblock.magic = media::kSuperblockMagic;
  superblock.seg_num = 31;
  memcpy(page.data(), &superblock, sizeof superblock);
  return page;
}

TEST(OtherVersion, TheThreeThatWerePosted) {
  EXPECT_TRUE(is_review_version(page_of(0x98db695a))) << "seed 0x3b15a, the record";
  EXPECT_TRUE(is_review_version(page_of(0x273ff6a0))) << "seed 0x3b15a, the page";
  EXPECT_TRUE(is_review_version(page_of(0x282042f1))) << "seed 0, the page";
}

TEST(OtherVersion, NeitherOursNorDamage) {
  Page page = page_of(0);
  EXPECT_FALSE(is_review_version(page));
  const media::Superblock ours = make_superblock(31);
  memcpy(page.data(), &ours, sizeof ours);
  EXPECT_FALSE(is_review_version(page));
  Page damaged = page_of(0x98db695a);
  damaged[17] ^= std::byte{1};
  EXPECT_FALSE(is_review_version(damaged));
  Page blank{};
  EXPECT_FALSE(is_review_version(blank));
}

}  // namespace
}  // namespace pcache
