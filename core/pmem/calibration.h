// SPDX-License-Identifier: GPL-2.0-or-later
// Calibration: which persist method is fastest on this memory and CPU, by the size of a copy. It
// differs by device, in both directions, so it is measured (Pmem::calibrate()) and not assumed.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "pmem/persist.h"

namespace pcache {

struct Calibration {
  // Sizes that are measured; each stands for copies of up to so many bytes.
  static constexpr size_t kClasses = 4;
  static constexpr std::array<size_t, kClasses> kSizes = {512, 4096, 16384, 65536};
  static constexpr std::array<size_t, kClasses> kUpTo = {1024, 8192, 32768, SIZE_MAX};
  static constexpr size_t class_of(size_t len_bytes) {
    size_t c = 0;
    while (len_bytes > kUpTo[c]) c++;
    return c;
  }

  struct Method {
    const PersistOps* ops;
    std::array<uint32_t, kClasses> ns;  // of a copy and a fence
  };
  std::vector<Method> measured;  // those that this CPU has; the first is the one in doubt

  // The fastest by class. One that is not faster by a twentieth than measured.front() does not
  // count: the next measurement would say otherwise.
  std::array<const PersistOps*, kClasses> chosen() const;
  // "512 B flushcache 121 ns (clflushopt 180, clwb 190); 4 KiB ..."
  std::string text() const;
};

}  // namespace pcache
