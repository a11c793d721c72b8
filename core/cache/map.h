// SPDX-License-Identifier: GPL-2.0-or-later
// What a range of the cached device is made of: what is cached, what is newer than on the backing
// device, what is known to be zeros without a read. Any thread; of a moment, as requests go on.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.h"
#include "blockdev/block_device.h"
#include "index/index.h"

namespace pcache {

struct MappedExtent {
  Extent extent;
  bool cached = false;
  bool dirty = false;
  bool zeros = false;
  bool hole = false;  // zeros, for which the backing device has no room
};

// From the start of `range`, which lies in the device, in ascending order without gaps, each as
// long as it can be; as many as `out` holds, which is not empty. How many.
size_t map_range(const Index& index, const BlockDevice& backing, Extent range,
                 std::span<MappedExtent> out);

}  // namespace pcache
