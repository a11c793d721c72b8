// SPDX-License-Identifier: GPL-2.0-or-later
// The table of the JSON status, through the C ABI.
#include "cache/status.h"

#include <algorithm>

#include "base/sized.h"
#include "capi/error.h"
#include "pcache.h"

using pcache::guarded;

PCACHE_EXPORT uint32_t pcache_status_field_count(void) {
  const int count = guarded(nullptr, [] { return static_cast<int>(pcache::status_field_count()); });
  return static_cast<uint32_t>(std::max(count, 0));
}

PCACHE_EXPORT int pcache_status_field_describe(uint32_t index, pcache_status_field* field) {
  return guarded(nullptr, [&]() -> int {
    if (!pcache::is_sized(field->size, sizeof field->size)) return -EINVAL;
    if (index >= pcache::status_field_count()) return -ENOENT;
    const pcache::StatusField& is = pcache::status_field(index);
    constexpr const char* kKinds[] = {"state", "counter", "latency"};  // by StatusKind
    pcache::give_sized(pcache_status_field{0, 0, is.object, is.name, is.text,
                                           kKinds[static_cast<size_t>(is.kind)]},
                       field);
    return 0;
  });
}
