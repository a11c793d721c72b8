// SPDX-License-Identifier: GPL-2.0-or-later
// Calibration: which persist method is fastest on this memory and CPU, by the size of a copy.
// Devices differ in both directions, so Pmem::calibrate() measures it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "pmem/persist.h"

namespace pcache {

struct Calibration {
  // The sizes that are measured; each stands for copies of up to kUpTo bytes.
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
  std::vector<Method> measured;  // of this CPU; the first is the one used in doubt

  // The fastest by class. A method must be faster by a twentieth than measured.front(): otherwise
  // the next measurement might choose differently.
  std::array<const PersistOps*, kClasses> chosen() const;
  // "512 B flushcache 121 ns (clflushopt 180, clwb 190); 4 KiB ..."
  std::string text() const;
};

}  // namespace pcache
