// SPDX-License-Identifier: GPL-2.0-or-later
// The CPU's abilities for stores and copies, read once. x86-64 only.
#pragma once

#include <cstddef>
#include <string>

namespace pcache {

// The unit in which the CPU moves memory to and from the media.
inline constexpr size_t kLineBytes = 64;

struct CpuFeatures {
  bool avx2 = false;     // with the operating system's support for the registers
  bool avx512f = false;  // likewise
  bool clflushopt = false;
  bool clwb = false;
  bool movdir64b = false;
  bool amd = false;  // made by AMD
};

const CpuFeatures& cpu_features();

// The CPU's name; empty if it has none.
const std::string& cpu_name();

}  // namespace pcache
