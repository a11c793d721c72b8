// SPDX-License-Identifier: GPL-2.0-or-later
// Tells a superblock of another version of the format from a damaged one.
//
// The series that became dm-pcache was posted for review in 2025 with the same magic at the same
// place. It has crc32 (IEEE, reflected, not inverted) in place of crc32c, and other records behind
// the superblock (segment_info has 24 bytes). Its superblock was posted in three versions, with
// different bytes under the crc or a different seed.
#pragma once

#include <cstddef>
#include <span>

namespace pcache {

inline constexpr size_t kSuperblockPageBytes = 4096;

// `page`: the superblock's 4 KiB. Whether its crc is right for one of those versions.
bool is_review_version(std::span<const std::byte, kSuperblockPageBytes> page);

inline constexpr const char kReviewVersion[] =
    "superblock at 4096: another version of the format: its crc is the crc32 that dm-pcache had "
    "while it was reviewed in 2025, not the crc32c of Linux 6.18 and later; not damaged, but not "
    "readable here: use it with the kernel that has made it";

}  // namespace pcache
