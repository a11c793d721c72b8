// SPDX-License-Identifier: GPL-2.0-or-later
// The backing device through io_uring: one ring per queue.
#pragma once

#include <memory>

#include "base/log.h"
#include "base/result.h"
#include "blockdev/backing_file.h"
#include "blockdev/block_device.h"
#include "blockdev/uring_setup.h"

namespace pcache {

std::unique_ptr<BlockDevice> make_uring_device(BackingFile file, UringInit init);

// open_block_device() with another function that sets up rings.
Result<std::unique_ptr<BlockDevice>> open_block_device_with(const BlockDeviceOptions& options,
                                                            const Log& log, UringInit init);

}  // namespace pcache
