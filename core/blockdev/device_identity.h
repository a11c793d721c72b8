// SPDX-License-Identifier: GPL-2.0-or-later
// Recognises a backing device again: the same text for the same device after remounts, reboots,
// renamed device nodes and kernel upgrades; a different one for any other device.
#pragma once

#include <sys/types.h>

#include <string>

#include "blockdev/block_device.h"

namespace pcache {

// "file fsid=<id> ino=<n>" or "file fsuuid=<uuid> ino=<n>". Not stable on a file system without a
// UUID whose id follows its device number.
DeviceIdentity file_identity(int fd, ino_t inode);

// "disk wwid=...", "disk serial=...", "disk dm=...", "disk md=...", "disk loop=<file>", with
// " start=<sector>" for a partition; else "disk maj:min=<n>:<n>", which is not stable.
// `sysfs_dev_block` is /sys/dev/block, but not in tests.
DeviceIdentity disk_identity(const std::string& sysfs_dev_block, unsigned major, unsigned minor);

// Whether a disk makes a range zeros without being given them, as sysfs has it.
bool disk_makes_holes(const std::string& sysfs_dev_block, unsigned major, unsigned minor);

}  // namespace pcache
