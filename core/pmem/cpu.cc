// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/cpu.h"

#include <cpuid.h>

namespace pcache {

namespace {

CpuFeatures detect() {
  CpuFeatures features;
  // These two look at XCR0 as well: it is not enough that the CPU has the instructions.
  __builtin_cpu_init();
  features.avx2 = __builtin_cpu_supports("avx2") != 0;
  features.amd = __builtin_cpu_is("amd") != 0;
  features.avx512f = __builtin_cpu_supports("avx512f") != 0;

  // Compilers have different names for these, so they are read from leaf 7 directly.
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
    features.clflushopt = (ebx >> 23) & 1;
    features.clwb = (ebx >> 24) & 1;
    features.movdir64b = (ecx >> 28) & 1;
  }
  return features;
}

std::string read_name() {
  unsigned words[12] = {};
  for (unsigned i = 0; i < 3; i++)
    if (!__get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                     &words[4 * i + 3]))
      return {};
  std::string name(reinterpret_cast<const char*>(words), sizeof words);
  return name.substr(0, name.find('\0'));
}

}  // namespace

const std::string& cpu_name() {
  static const std::string name = read_name();
  return name;
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace pcache
