// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/crc32c.h"

#include <isa-l/crc.h>
#include <nmmintrin.h>

#include <cstring>

namespace pcache {

namespace {

// Up to here the crc32 instruction is faster than ISA-L, whose set-up costs more than the bytes.
constexpr size_t kShortBytes = 64;

[[gnu::target("sse4.2")]] uint32_t crc32c_short(uint32_t crc, const unsigned char* p, size_t n) {
  uint64_t c = crc;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    c = _mm_crc32_u64(c, word);
  }
  for (; n > 0; p++, n--) c = _mm_crc32_u8(static_cast<uint32_t>(c), *p);
  return static_cast<uint32_t>(c);
}

const bool kHasSse42 = __builtin_cpu_supports("sse4.2");

}  // namespace

uint32_t crc32c(uint32_t crc, const void* data, size_t len_bytes) {
  auto* p = static_cast<const unsigned char*>(data);
  if (len_bytes <= kShortBytes && kHasSse42) return crc32c_short(crc, p, len_bytes);
  // ISA-L takes an int length and, by its prototype, a non-const buffer that it only reads.
  while (len_bytes > 0) {
    const size_t n = len_bytes < (1u << 30) ? len_bytes : (1u << 30);
    crc = crc32_iscsi(const_cast<unsigned char*>(p), static_cast<int>(n), crc);
    p += n;
    len_bytes -= n;
  }
  return crc;
}

}  // namespace pcache
