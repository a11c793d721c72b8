// SPDX-License-Identifier: GPL-2.0-or-later
// CRC32C (Castagnoli, reflected polynomial 0x82F63B78) without pre- or post-inversion, as the
// on-media format uses it. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pcache {

// The running value in, the running value out: crc32c(crc32c(s, a), b) == crc32c(s, a ++ b).
uint32_t crc32c(uint32_t crc, const void* data, size_t len_bytes);

}  // namespace pcache
