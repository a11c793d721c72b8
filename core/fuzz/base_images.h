// SPDX-License-Identifier: GPL-2.0-or-later
// The valid images that image_fuzz starts from, made once by our own code, and where their records
// are. Each is checkpointed: a copy for one run is a crash_image() of it and costs the pages that
// the run touches.
#pragma once

#include <memory>
#include <vector>

#include "base/executor.h"
#include "cache/cache.h"
#include "testing/image.h"
#include "testing/memory_device.h"

namespace pcache {

// A little over a whole number of ranges, so that the last one is cut.
inline constexpr uint64_t kFuzzLogicalBytes = (12 << 20) + (64 << 10);
inline constexpr uint32_t kFuzzSegments = 32;  // the smallest device that is one

struct BaseImage {
  std::unique_ptr<MemoryPmem> memory;
  // Of the log, in its order; then its end, where a header of zeros stands.
  std::vector<CachePos> ksets;
};

std::vector<BaseImage> make_base_images();

// A cache over `memory` and a fresh device, and a clock that the caller turns.
struct FuzzCache {
  Result<bool> attach(MemoryPmem& memory, const Options& options);

  std::unique_ptr<Cache> cache;
  MemoryDevice* device = nullptr;       // the cache's
  SteppedExecutor* executor = nullptr;  // likewise
};

BackingIdentity fuzz_backing();

}  // namespace pcache
