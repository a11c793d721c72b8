// SPDX-License-Identifier: GPL-2.0-or-later
// BackingFile: the backing device opened, locked and measured, for any way to do I/O.
//
// Invariants
// - No other program that locks has it open: flock on both kinds, and O_EXCL on a block device,
//   which also keeps it from being mounted, as long as `fd` is open or I/O on it is in flight.
// - Nothing is written to it here.
#pragma once

#include <cstdint>
#include <string>

#include "base/growing_size.h"
#include "base/log.h"
#include "base/result.h"
#include "blockdev/block_device.h"
#include "blockdev/block_io.h"
#include "blockdev/unique_fd.h"

namespace pcache {

struct BackingFile {
  std::string path;
  UniqueFd fd;
  GrowingSize size_bytes;  // a multiple of align.block_bytes, not 0
  DirectIoAlign align;
  DeviceIdentity identity;
  bool makes_holes = true;  // as far as can be known before it is asked to
};

// As BlockDevice::measure_again().
Result<uint64_t> measure_again(BackingFile* file);
// As BlockDevice::sync_size().
Status sync_size(const BackingFile& file);
// As BlockDevice::is_hole().
bool is_hole(const BackingFile& file, uint64_t off, uint64_t* end);

// Buffers for direct I/O, here and in the tools, are aligned to this and have room for its blocks.
inline constexpr uint32_t kMostDirectIoBytes = 64 << 10;
// EINVAL: no power of two, or more than that.
Status check_align(const std::string& path, const DirectIoAlign& align);

// Errors: those of open(); EINVAL: no O_DIRECT there, or size 0; EBUSY: in use; ENOTBLK: neither a
// regular file nor a block device; EROFS: it is read-only, and not opened so.
Result<BackingFile> open_backing_file(const BlockDeviceOptions& options, const Log& log);

}  // namespace pcache
