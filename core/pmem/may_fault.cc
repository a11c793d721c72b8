// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/may_fault.h"

namespace pcache {

// The linker's names for the ends of the section; weak, since a program may store nothing.
extern "C" {
[[gnu::visibility("hidden"), gnu::weak]] extern const int32_t __start_pcache_may_fault[];
[[gnu::visibility("hidden"), gnu::weak]] extern const int32_t __stop_pcache_may_fault[];
}

uintptr_t behind_fault(uintptr_t at) {
  const auto address = [](const int32_t& entry) {
    return reinterpret_cast<uintptr_t>(&entry) + static_cast<uintptr_t>(intptr_t{entry});
  };
  for (const int32_t* entry = __start_pcache_may_fault; entry < __stop_pcache_may_fault; entry += 2)
    if (address(entry[0]) == at) return address(entry[1]);
  return 0;
}

}  // namespace pcache
