// SPDX-License-Identifier: GPL-2.0-or-later
// The identity block: which backing device a cache belongs to (hazard 20). Ours, in the first 4
// KiB, which the kernel target leaves alone; a kernel-made image has none until we attach it.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "format/media.h"
#include "pmem/pmem.h"

namespace pcache {

struct BackingIdentity {
  std::string text;  // see DeviceIdentity
  uint64_t size_bytes = 0;
};

// Nothing when there is none (all zeros); EUCLEAN when it is there and damaged.
Result<std::optional<media::Identity>> load_identity(const Pmem& pmem);
void write_identity(Pmem& pmem, const BackingIdentity& backing, uint64_t now_unix_s);
// All that is in front of the superblock becomes zeros: the cache belongs to nobody.
void erase_identity(Pmem& pmem);
// EXDEV with both named when the block is for another device or the device's size has changed.
Status compare_identity(const media::Identity& identity, const BackingIdentity& backing);

}  // namespace pcache
