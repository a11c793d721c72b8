// SPDX-License-Identifier: GPL-2.0-or-later
// Rescue: the logical device - the cache over its backing device - as a plain image. What is
// neither cached nor, in a sparse backing file, allocated costs no time.
//
// Of an image that attaches it is what attach would serve. Of one that does not, with `force`, it
// is what can be had: keys that are sound, in log order, as far as the log can be followed; the
// findings then name what is missing. Writes to neither device. One thread.
#pragma once

#include "blockdev/backing_file.h"
#include "inspect/check.h"

namespace pcache {

struct RescueOptions {
  std::string to;      // the file; must not exist
  int stream = -1;     // else a descriptor that is written in order, zeros too; `to` names it
  bool force = false;  // take what can be had
  std::function<void(uint64_t done, uint64_t all)> progress = nullptr;
};

struct RescueResult {
  uint64_t cached_bytes = 0;  // taken from the cache
  uint64_t dirty_bytes = 0;   // of them, such as the backing device does not have
  uint64_t lost_bytes =
      0;  // known ranges whose newest data is lost; the backing device's is put there
};

// `report`: of check_image() with this backing device; damage that shows while copying is added.
// The file appears at the end, whole and durable, or not at all; a stream that is not whole is told
// by the error. EUCLEAN: the image cannot be
// trusted and `force` is not set. EEXIST, ENOSPC, EIO, ...: the file, or the backing device.
Result<RescueResult> rescue(Pmem& pmem, const BackingFile& backing, CheckReport* report,
                            const RescueOptions& options);

}  // namespace pcache
