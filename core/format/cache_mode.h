// SPDX-License-Identifier: GPL-2.0-or-later
// CacheMode: how a cache treats writes and misses, as cache_info names it on media. 0 to 3 have
// their numbers from the kernel target's header, which implements 0 alone; 4 is ours.
#pragma once

#include <array>
#include <cstdint>

namespace pcache {

enum class CacheMode : uint8_t {
  kWriteback = 0,
  kWritethrough = 1,
  kWritearound = 2,
  kWriteonly = 3,
  kPassthrough = 4,
};
inline constexpr uint32_t kCacheModes = 5;

// All that the modes differ in.
struct ModeAnswers {
  const char* name;
  bool acks_on_device;  // a write is acknowledged when the backing device has it, flushed
  bool keeps_writes;    // what was written stays in the cache when the backing device has it
  bool fills;           // misses are cached
};
inline constexpr std::array<ModeAnswers, kCacheModes> kModeAnswers{{
    {"writeback", false, true, true},
    {"writethrough", true, true, true},
    {"writearound", true, false, true},
    {"writeonly", false, true, false},
    {"passthrough", true, false, false},
}};
constexpr const ModeAnswers& answers_of(CacheMode mode) {
  return kModeAnswers[static_cast<uint8_t>(mode)];
}

}  // namespace pcache
