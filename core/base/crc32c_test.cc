// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace pcache {
namespace {

// Bit by bit, from the polynomial.
uint32_t reference(uint32_t crc, const unsigned char* p, size_t n) {
  for (size_t i = 0; i < n; i++) {
    crc ^= p[i];
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0);
  }
  return crc;
}

TEST(Crc32c, Rfc3720Vectors) {
  // RFC 3720 B.4 gives them with inversion on both sides.
  std::vector<unsigned char> v(32, 0);
  EXPECT_EQ(~crc32c(~0u, v.data(), 32), 0x8A9136AAu);
  v.assign(32, 0xff);
  EXPECT_EQ(~crc32c(~0u, v.data(), 32), 0x62A8AB43u);
  for (int i = 0; i < 32; i++) v[i] = static_cast<unsigned char>(i);
  EXPECT_EQ(~crc32c(~0u, v.data(), 32), 0x46DD794Eu);
  EXPECT_EQ(~crc32c(~0u, "123456789", 9), 0xE3069283u);
}

TEST(Crc32c, KernelSuperblockOf31Segments) {
  // Bytes 4..23 of the superblock in the kernel-made golden image a_empty, and its crc field.
  const unsigned char bytes[20] = {0,    0,    0,    0, 0xef, 0x96, 0xc5, 0x96, 0xfa, 0x5e,
                                   0xb0, 0x65, 0x1f, 0, 0,    0,    0,    0,    0,    0};
  EXPECT_EQ(crc32c(0x3B15A, bytes, sizeof bytes), 0x047f7742u);
}

TEST(Crc32c, EveryLengthAndAlignmentAgainstTheReference) {
  std::mt19937 rng(1);
  std::vector<unsigned char> data(5000);
  for (auto& b : data) b = static_cast<unsigned char>(rng());
  for (size_t n = 0; n < 300; n++)
    for (size_t align = 0; align < 8; align++)
      ASSERT_EQ(crc32c(0x3B15A, data.data() + align, n), reference(0x3B15A, data.data() + align, n))
          << "length " << n << " alignment " << align;
  ASSERT_EQ(crc32c(7, data.data(), data.size()), reference(7, data.data(), data.size()));
}

TEST(Crc32c, Chains) {
  const char text[] = "in two pieces it is the same as in one piece, wherever one cuts it .......";
  for (size_t cut = 0; cut < sizeof text; cut++)
    EXPECT_EQ(crc32c(crc32c(5, text, cut), text + cut, sizeof text - cut),
              crc32c(5, text, sizeof text));
}

}  // namespace
}  // namespace pcache
