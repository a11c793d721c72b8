// SPDX-License-Identifier: GPL-2.0-or-later
// The valid images that image_fuzz starts from, made once by our own code, and the places of their
// records. Each has a checkpoint: a run copies it by crash_image(), which costs only the pages that
// the run touches.
#pragma once

#include <memory>
#include <vector>

#include "base/executor.h"
#include "cache/cache.h"
#include "testing/image.h"
#include "testing/memory_device.h"

namespace pcache {

// Not a whole number of ranges, so that the last one is cut.
inline constexpr uint64_t kFuzzLogicalBytes = (12 << 20) + (64 << 10);
inline constexpr uint32_t kFuzzSegments = 32;  // the smallest device allowed

struct BaseImage {
  std::unique_ptr<MemoryPmem> memory;
  // The ksets of the log, in order; then its end, a header of zeros.
  std::vector<CachePos> ksets;
};

std::vector<BaseImage> make_base_images();

// The device that the identity blocks name. Not `unique`: another device may have its name.
BackingIdentity fuzz_backing(bool unique = true);

// A cache over `memory` and a fresh device, with a clock that the caller turns.
struct FuzzCache {
  Result<bool> attach(MemoryPmem& memory, const Options& options,
                      const BackingIdentity& backing = fuzz_backing());

  std::unique_ptr<Cache> cache;
  MemoryDevice* device = nullptr;       // of the cache
  SteppedExecutor* executor = nullptr;  // of the cache
};

}  // namespace pcache
