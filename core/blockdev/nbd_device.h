// SPDX-License-Identifier: GPL-2.0-or-later
// The backing device on a server of NBD (network block device), by libnbd. Each queue has a
// connection of its own where the server says that a flush covers all (multi_conn); else they share
// one. Nothing keeps others from the device: NBD has no locks.
#pragma once

#include <memory>

#include "base/log.h"
#include "base/result.h"
#include "blockdev/block_device.h"

namespace pcache {

// `options.path` is one that is_nbd_uri(). Waits for the server, 10 seconds at most. Errors: those
// of connecting; EINVAL: no device for a cache, or an option that NBD has not; EOPNOTSUPP: no
// flush; EROFS: it is read-only, and not opened so; ETIMEDOUT.
Result<std::unique_ptr<BlockDevice>> open_nbd_device(const BlockDeviceOptions& options,
                                                     const Log& log);

}  // namespace pcache
