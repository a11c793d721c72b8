// SPDX-License-Identifier: GPL-2.0-or-later
// The identity block: which backing device a cache belongs to (hazard no-identity). Only we use it,
// in the first 4 KiB, which the kernel target leaves alone. A kernel-made image gets one when we
// attach it, unless something else is there (a partition table, a file system): that is not ours to
// overwrite.
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
  bool unique = false;  // likewise
};

// What the first 4 KiB hold. kOurs: an identity block, whole, damaged or never finished.
enum class FirstPage { kZeros, kOurs, kForeign, kUnreadable };
FirstPage first_page(const Pmem& pmem);

// Nothing if there is none, or a first one that a crash left unfinished. EUCLEAN: it is damaged;
// EIO.
Result<std::optional<media::Identity>> load_identity(const Pmem& pmem);
// Takes a new random UUID. It and the first write_identity() may throw std::bad_alloc, and what
// std::random_device throws.
media::Identity make_identity(const BackingIdentity& backing, uint64_t now_unix_s);
// A crash leaves the block that was there, or this one. EIO: the page at 0 is bad.
Status write_identity(Pmem& pmem, const BackingIdentity& backing, uint64_t now_unix_s);
// Stores one from make_identity(). Throws nothing.
Status write_identity(Pmem& pmem, const media::Identity& identity);
// Zeros all that is in front of the superblock: the cache then belongs to no device.
Status erase_identity(Pmem& pmem);
// EXDEV, naming both, if the block is of another device or the device's size has changed.
Status compare_identity(const media::Identity& identity, const BackingIdentity& backing);
// Whether it is of that device, which has become larger: no key is past it. Of a device that is not
// unique it may be another one, so its user must say that it is the same.
bool has_grown(const media::Identity& identity, const BackingIdentity& backing);
// The same one, of a device of another size.
media::Identity with_size(const media::Identity& identity, uint64_t backing_bytes);

}  // namespace pcache
