// SPDX-License-Identifier: GPL-2.0-or-later
#include "format/other_version.h"

#include <cstring>

#include "format/media.h"

namespace pcache {

namespace {

// The kernel's crc32(), bit by bit: that is fast enough for a page.
uint32_t crc32_le(uint32_t crc, std::span<const std::byte> bytes) {
  constexpr uint32_t kPolynomial = 0xedb88320;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? kPolynomial : 0);
  }
  return crc;
}

}  // namespace

bool is_review_version(std::span<const std::byte, kSuperblockPageBytes> page) {
  media::Superblock superblock;
  memcpy(&superblock, page.data(), sizeof superblock);
  if (superblock.magic != media::kSuperblockMagic) return false;
  const auto whole_page = page.subspan<media::kCrcStart>();
  const auto record = page.subspan<media::kCrcStart, sizeof superblock - media::kCrcStart>();
  return superblock.crc == crc32_le(0, whole_page) ||
         superblock.crc == crc32_le(media::kCrcSeed, whole_page) ||
         superblock.crc == crc32_le(media::kCrcSeed, record);
}

}  // namespace pcache
