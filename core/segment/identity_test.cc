// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/crash_states.h"
#include "testing/memory_pmem.h"

namespace pcache {
namespace {

using media::Identity;
using ::testing::HasSubstr;

const BackingIdentity kDisk{"disk serial=A", 64 << 20}, kOther{"disk serial=B", 64 << 20};

class IdentityBlock : public ::testing::Test {
 protected:
  MemoryPmem memory_{64 << 10};
};

TEST_F(IdentityBlock, NothingOnABlankDevice) {
  const auto loaded = load_identity(memory_.pmem());
  ASSERT_TRUE(loaded.ok());
  EXPECT_FALSE(loaded.value());
}

TEST_F(IdentityBlock, RoundTrip) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 1234).ok());
  const auto loaded = load_identity(memory_.pmem());
  ASSERT_TRUE(loaded.ok() && loaded.value());
  EXPECT_STREQ(loaded.value()->backing, "disk serial=A");
  EXPECT_EQ(loaded.value()->backing_bytes, 64u << 20);
  EXPECT_EQ(loaded.value()->created_unix_s, 1234u);
  EXPECT_EQ(loaded.value()->uuid[6] >> 4, 4);
  EXPECT_TRUE(compare_identity(*loaded.value(), kDisk).ok());
}

TEST_F(IdentityBlock, TextTooLongForTheBlockStillMatchesItself) {
  const BackingIdentity longer{std::string(1000, 'x'), 512};
  EXPECT_TRUE(write_identity(memory_.pmem(), longer, 0).ok());
  const auto loaded = load_identity(memory_.pmem());
  ASSERT_TRUE(loaded.ok() && loaded.value());
  EXPECT_TRUE(compare_identity(*loaded.value(), longer).ok());
}

TEST_F(IdentityBlock, AMismatchNamesBoth) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  const auto loaded = load_identity(memory_.pmem());
  ASSERT_TRUE(loaded.ok() && loaded.value());
  const auto device = compare_identity(*loaded.value(), kOther);
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.error().code, EXDEV);
  EXPECT_THAT(device.error().text, HasSubstr("\"disk serial=A\""));
  EXPECT_THAT(device.error().text, HasSubstr("\"disk serial=B\""));
  const auto size = compare_identity(*loaded.value(), {"disk serial=A", 32 << 20});
  ASSERT_FALSE(size.ok());
  EXPECT_EQ(size.error().code, EXDEV);
  EXPECT_THAT(size.error().text, HasSubstr("67108864 bytes"));
  EXPECT_THAT(size.error().text, HasSubstr("33554432"));
}

TEST_F(IdentityBlock, ADeviceThatHasGrownKeepsItsBlockButForTheSize) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 1234).ok());
  const auto loaded = load_identity(memory_.pmem());
  ASSERT_TRUE(loaded.ok() && loaded.value());
  const Identity& before = *loaded.value();
  const BackingIdentity grown{kDisk.text, kDisk.size_bytes + 512};
  EXPECT_TRUE(has_grown(before, grown));
  EXPECT_FALSE(has_grown(before, kDisk));
  EXPECT_FALSE(has_grown(before, {kDisk.text, kDisk.size_bytes - 512}));
  EXPECT_FALSE(has_grown(before, {kOther.text, kDisk.size_bytes + 512}));
  EXPECT_TRUE(write_identity(memory_.pmem(), with_size(before, grown.size_bytes)).ok());
  const auto now = load_identity(memory_.pmem());
  ASSERT_TRUE(now.ok() && now.value());
  EXPECT_TRUE(compare_identity(*now.value(), grown).ok());
  EXPECT_EQ(memcmp(now.value()->uuid, before.uuid, sizeof before.uuid), 0);
  EXPECT_EQ(now.value()->created_unix_s, 1234u);
}

TEST_F(IdentityBlock, EveryDamagedWordIsNoticed) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  for (uint64_t off = 0; off < sizeof(Identity); off += 8) {
    memory_.flip_bit(MediaOff{off});
    const auto loaded = load_identity(memory_.pmem());
    ASSERT_FALSE(loaded.ok()) << off;
    EXPECT_EQ(loaded.error().code, EUCLEAN);
    memory_.flip_bit(MediaOff{off});
  }
}

// A partition table or a file system is no identity, and is not overwritten without force.
TEST_F(IdentityBlock, WhatIsNotOursIsNoIdentity) {
  EXPECT_EQ(first_page(memory_.pmem()), FirstPage::kZeros);
  for (const uint64_t off : {0, 8, 446, 510, 1024, 4088}) {
    const uint64_t word = 0x55aa;
    memory_.poke(MediaOff{off}, word);
    const auto loaded = load_identity(memory_.pmem());
    ASSERT_TRUE(loaded.ok()) << off << ": " << loaded.error().text;
    EXPECT_FALSE(loaded.value()) << off;
    EXPECT_EQ(first_page(memory_.pmem()), FirstPage::kForeign) << off;
    memory_.poke(MediaOff{off}, uint64_t{0});
  }
  ASSERT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  EXPECT_EQ(first_page(memory_.pmem()), FirstPage::kOurs);
  memory_.flip_bit(MediaOff{100});
  EXPECT_EQ(first_page(memory_.pmem()), FirstPage::kOurs) << "damaged, and ours";
  memory_.make_unreadable(MediaOff{0});
  EXPECT_EQ(first_page(memory_.pmem()), FirstPage::kUnreadable);
}

TEST_F(IdentityBlock, AMediaErrorIsAnError) {
  memory_.make_unreadable(MediaOff{0});
  const auto loaded = load_identity(memory_.pmem());
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, EIO);
}

class IdentityCrash : public IdentityBlock {
 protected:
  static constexpr MediaOff kSpare{media::kIdentitySpareOff};
  // In every crash state the block is one of `allowed` ("none" for no block).
  void write_and_check(const BackingIdentity& backing, const std::vector<std::string>& allowed) {
    memory_.checkpoint();
    EXPECT_TRUE(write_identity(memory_.pmem(), backing, 0).ok());
    check(allowed);
  }
  void check(const std::vector<std::string>& allowed) {
    EXPECT_TRUE(all_durable(memory_.journal()));
    for_each_crash_state(memory_.journal(), {.samples = 100},
                         [&](std::span<const KeptStore> kept, const std::string& what) {
                           check_image(*memory_.crash_image(kept), what, allowed);
                         });
  }
  void check_image(MemoryPmem& image, const std::string& what,
                   const std::vector<std::string>& allowed) {
    if (HasFailure()) return;  // one says enough
    EXPECT_NE(first_page(image.pmem()), FirstPage::kForeign) << what;
    const auto loaded = load_identity(image.pmem());
    ASSERT_TRUE(loaded.ok()) << what << ": " << loaded.error().text;
    EXPECT_THAT(allowed, ::testing::Contains(loaded.value() ? loaded.value()->backing : "none"))
        << what;
  }
};

TEST_F(IdentityCrash, FirstWriteTornAtAnyWord) {
  write_and_check(kDisk, {"none", "disk serial=A"});
}

// As an attach with force rewrites it: a crash leaves the one or the other, since a cache that
// belongs to no device would go with any (hazard identity-in-place).
TEST_F(IdentityCrash, RewriteTornAtAnyWord) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  write_and_check(kOther, {"disk serial=A", "disk serial=B"});
  EXPECT_EQ(memory_.peek<uint64_t>(kSpare + offsetof(Identity, magic)), media::kIdentityUnfinished)
      << "it counts for nothing any more";
}

// Killed at any event of a rewrite; what the next process sees of it need not be durable.
TEST_F(IdentityCrash, RewriteOfWhatAKilledProcessHasLeft) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  memory_.checkpoint();
  EXPECT_TRUE(write_identity(memory_.pmem(), kOther, 0).ok());
  const BackingIdentity third{"disk serial=C", 64 << 20};
  for_each_killed_process(
      memory_, memory_.journal(), {.samples = 20},
      [&](Pmem& pmem) { EXPECT_TRUE(write_identity(pmem, third, 0).ok()); },
      [&](MemoryPmem& image, const std::string& what) {
        check_image(image, what, {"disk serial=A", "disk serial=B", "disk serial=C"});
      });
}

// A block that a crash left unfinished, with a spare that counts; and it is replaced once more.
TEST_F(IdentityCrash, RewriteOfWhatACrashHasLeft) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  const auto spare = memory_.peek<Identity>(MediaOff{media::kIdentityOff});
  memory_.poke(kSpare, spare);
  memory_.poke(MediaOff{offsetof(Identity, magic)}, media::kIdentityUnfinished);
  const auto loaded = load_identity(memory_.pmem());
  ASSERT_TRUE(loaded.ok() && loaded.value());
  EXPECT_STREQ(loaded.value()->backing, "disk serial=A");
  write_and_check(kOther, {"disk serial=A", "disk serial=B"});
}

// A crash has left a spare beside a block that is whole: it is not asked, and never comes back.
TEST_F(IdentityCrash, ASpareBesideAWholeBlockCountsForNothing) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kOther, 0).ok());
  const auto spare = memory_.peek<Identity>(MediaOff{media::kIdentityOff});
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  memory_.poke(kSpare, spare);
  EXPECT_STREQ(load_identity(memory_.pmem()).value()->backing, "disk serial=A");
  memory_.checkpoint();
  EXPECT_TRUE(erase_identity(memory_.pmem()).ok());
  check({"none", "disk serial=A"});
  EXPECT_EQ(first_page(memory_.pmem()), FirstPage::kZeros);
}

TEST_F(IdentityCrash, ADamagedSpareIsNone) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  const auto spare = memory_.peek<Identity>(MediaOff{media::kIdentityOff});
  memory_.poke(MediaOff{offsetof(Identity, magic)}, media::kIdentityUnfinished);
  for (uint64_t off = 0; off < sizeof(Identity); off += 8) {
    memory_.poke(kSpare, spare);
    memory_.flip_bit(kSpare + off);
    const auto loaded = load_identity(memory_.pmem());
    ASSERT_TRUE(loaded.ok()) << off;
    EXPECT_FALSE(loaded.value()) << off;
  }
}

// As a format over another cache erases it.
TEST_F(IdentityCrash, EraseTornAtAnyWord) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  memory_.checkpoint();
  EXPECT_TRUE(erase_identity(memory_.pmem()).ok());
  check({"none", "disk serial=A"});
  EXPECT_FALSE(load_identity(memory_.pmem()).value());
}

TEST_F(IdentityBlock, ABadPageIsAnError) {
  EXPECT_TRUE(write_identity(memory_.pmem(), kDisk, 0).ok());
  memory_.make_bad(MediaOff{0});
  EXPECT_EQ(write_identity(memory_.pmem(), kDisk, 0).error().code, EIO);
  EXPECT_EQ(erase_identity(memory_.pmem()).error().code, EIO);
  EXPECT_EQ(load_identity(memory_.pmem()).error().code, EIO);
}

}  // namespace
}  // namespace pcache
