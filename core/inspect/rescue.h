// SPDX-License-Identifier: GPL-2.0-or-later
// Rescue: copies the logical device - the cache over its backing device - into a plain image.
// Ranges that are neither cached nor allocated in a sparse backing file cost no time.
//
// If the image attaches, the copy is what attach would serve. If not, `force` copies what can be
// found: the sound keys, in log order, as far as the log can be followed; the findings then name
// what is missing. Writes to neither device. One thread.
#pragma once

#include "blockdev/backing_reader.h"
#include "inspect/check.h"

namespace pcache {

struct RescueOptions {
  std::string to;      // the file; must not exist
  int stream = -1;     // or a descriptor, written in order with all zeros; `to` names it
  bool force = false;  // copy what can be found
  std::function<void(uint64_t done, uint64_t all)> progress = nullptr;
};

struct RescueResult {
  uint64_t cached_bytes = 0;  // taken from the cache
  uint64_t dirty_bytes = 0;   // those that the backing device does not have
  uint64_t lost_bytes =
      0;  // known ranges whose newest data is lost; the backing device's is put there
};

// `report`: of check_image() with this backing device; adds damage that shows during the copy. The
// file appears at the end, whole and durable, or not at all; an error says that a stream is not
// whole. EUCLEAN: the image cannot be trusted and `force` is not set. EEXIST, ENOSPC, EIO, ...: the
// file, or the backing device.
Result<RescueResult> rescue(Pmem& pmem, const BackingReader& backing, CheckReport* report,
                            const RescueOptions& options);

}  // namespace pcache
