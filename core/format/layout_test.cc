// SPDX-License-Identifier: GPL-2.0-or-later
// Checks the offsets in bytes against FORMAT.md, "Where things are".
#include "format/layout.h"

#include <gtest/gtest.h>

namespace pcache {
namespace {

constexpr uint64_t kKiB = 1 << 10, kMiB = 1 << 20;

TEST(Layout, Segments) {
  const struct {
    uint32_t physical;
    uint64_t segment, data;
  } rows[] = {
      {0, 20 * kKiB, 32 * kKiB},
      {1, 20 * kKiB + 16 * kMiB, 32 * kKiB + 16 * kMiB},
      {31, 20 * kKiB + 496 * kMiB, 32 * kKiB + 496 * kMiB},
      {1048575, 20 * kKiB + 1048575 * 16 * kMiB, 32 * kKiB + 1048575 * 16 * kMiB},  // > 32 bits
  };
  for (const auto& row : rows) {
    EXPECT_EQ(segment_off(row.physical).v, row.segment) << row.physical;
    EXPECT_EQ(segment_data_off(row.physical).v, row.data) << row.physical;
  }
  EXPECT_EQ(media::kSegDataBytes, 16 * kMiB - 12 * kKiB);
}

TEST(Layout, ReplicasOfEveryRecord) {
  const struct {
    const char* name;
    ReplicaPlace place;
    uint64_t slot_0, slot_1;
    int first_slot;  // the kernel's choice on a fresh format
  } rows[] = {
      {"cache_info", cache_info_place(), 8 * kKiB, 12 * kKiB, 1},
      {"key_tail", key_tail_place(), 16 * kKiB, 16 * kKiB + 16, 0},
      {"dirty_tail", dirty_tail_place(), 16 * kKiB + 32, 16 * kKiB + 48, 0},
      {"segment_info 0", segment_info_place(0), 20 * kKiB, 24 * kKiB, 1},
      {"segment_info 2", segment_info_place(2), 20 * kKiB + 32 * kMiB, 24 * kKiB + 32 * kMiB, 1},
      {"generation 0", segment_gen_place(0), 28 * kKiB, 28 * kKiB + 16, 1},
      {"generation 2", segment_gen_place(2), 28 * kKiB + 32 * kMiB, 28 * kKiB + 32 * kMiB + 16, 1},
  };
  for (const auto& row : rows) {
    // The slot's place follows from the stride alone, not from the record's size (hazard
    // replica-index-by-struct-size).
    const Replicated<media::TailPos> record(row.place);
    EXPECT_EQ(record.slot(0).v, row.slot_0) << row.name;
    EXPECT_EQ(record.slot(1).v, row.slot_1) << row.name;
    EXPECT_EQ(row.place.first_slot, row.first_slot) << row.name;
  }
}

TEST(Layout, StructureSizes) {
  EXPECT_EQ(sizeof(media::Superblock), 24u);
  EXPECT_EQ(sizeof(media::CacheInfo), 24u);
  EXPECT_EQ(sizeof(media::CacheCtrl), 64u);
  EXPECT_EQ(sizeof(media::SegmentInfo), 16u);
  EXPECT_EQ(sizeof(media::SegmentGen), 16u);
  EXPECT_EQ(sizeof(media::KsetHeader), 24u);
  EXPECT_EQ(sizeof(media::Key), 40u);
  EXPECT_EQ(media::kMaxKsetBytes, 24u + 128 * 40);
  EXPECT_LE(sizeof(media::Identity), 4 * kKiB);
}

}  // namespace
}  // namespace pcache
