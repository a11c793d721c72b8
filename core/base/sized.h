// SPDX-License-Identifier: GPL-2.0-or-later
// Structs of the C ABI that begin with their `size`: the caller's may be of an older or a newer
// pcache.h, so its own size says what may be read and written.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

namespace pcache {

// No struct is that large: a larger `size` was never set.
inline constexpr uint32_t kMostSizedBytes = 4096;

// Whether `size` can be that of a caller's struct whose first `least` bytes are needed.
inline bool is_sized(uint32_t size, size_t least) {
  return size >= least && size <= kMostSizedBytes;
}

// Copies what fits into the caller's struct of `out->size` bytes, and zeros behind it. Then
// `out->size` is the number of bytes that this library has set.
template <typename Struct>
void give_sized(Struct all, Struct* out) {
  static_assert(std::is_trivially_copyable_v<Struct>);
  const uint32_t theirs = out->size;
  all.size = std::min<uint32_t>(theirs, sizeof all);
  memset(static_cast<void*>(out), 0, theirs);
  memcpy(static_cast<void*>(out), &all, all.size);
}

// The first byte behind what this library knows of the struct that a newer caller has set.
template <typename Struct>
std::optional<uint32_t> set_behind(const Struct& given) {
  const auto* bytes = reinterpret_cast<const char*>(&given);
  for (uint32_t at = sizeof given; at < given.size; at++)
    if (bytes[at] != 0) return at;
  return {};
}

}  // namespace pcache
