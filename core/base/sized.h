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

// No struct is as large: a `size` above it was never set.
inline constexpr uint32_t kMostSizedBytes = 4096;

// Whether a caller's `size` can be one, of a struct of which the first `least` bytes are needed.
inline bool is_sized(uint32_t size, size_t least) {
  return size >= least && size <= kMostSizedBytes;
}

// Copies what fits into the caller's struct, which has `out->size` bytes, with zeros behind what
// this library knows. `out->size` becomes the number of bytes that mean something.
template <typename Struct>
void give_sized(Struct all, Struct* out) {
  static_assert(std::is_trivially_copyable_v<Struct>);
  const uint32_t theirs = out->size;
  all.size = std::min<uint32_t>(theirs, sizeof all);
  memset(static_cast<void*>(out), 0, theirs);
  memcpy(static_cast<void*>(out), &all, all.size);
}

// The first byte that a newer caller has set behind what this library knows of the struct.
template <typename Struct>
std::optional<uint32_t> set_behind(const Struct& given) {
  const auto* bytes = reinterpret_cast<const char*>(&given);
  for (uint32_t at = sizeof given; at < given.size; at++)
    if (bytes[at] != 0) return at;
  return {};
}

}  // namespace pcache
