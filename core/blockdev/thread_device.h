// SPDX-License-Identifier: GPL-2.0-or-later
// The backing device through a pool of threads and pread/pwrite, if there is no io_uring. Slower,
// but with the same semantics.
#pragma once

#include <memory>

#include "blockdev/backing_file.h"
#include "blockdev/block_device.h"

namespace pcache {

std::unique_ptr<BlockDevice> make_thread_device(BackingFile file);

}  // namespace pcache
