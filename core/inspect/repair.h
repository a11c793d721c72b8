// SPDX-License-Identifier: GPL-2.0-or-later
// Repair: what can be put right in an image without a guess and without losing anything.
//
//   torn replica            the record that serves is written over it
//   lost generation         the one that the log proves is written
//   gc_percent out of range the one that is used is written
//   torn kset at the end    its header is cleared: the log is cut behind its last valid kset
//   damaged clean data      written anew from the backing device, where that satisfies the crc
//
// Everything else stays as it is, and is said. Nothing here makes an image attach that did not:
// that takes a guess, or gives acknowledged data up.
//
// Crash: each step is one that the cache itself takes at attach or while it runs (a record goes to
// the replica that does not serve; a header that is not valid is cleared; data that fails its crc
// is replaced), so an image is as good after half a repair as before. Run it again.
#pragma once

#include "blockdev/backing_file.h"
#include "inspect/check.h"

namespace pcache {

struct RepairStep {
  std::string what;  // "write cache_info to its replica 0"
  std::string why;
  MediaOff at;  // what is changed
  std::vector<std::byte> bytes;
};

struct RepairPlan {
  std::vector<RepairStep> steps;
  std::vector<std::string> left;  // what is not repaired, and why
};

// `report`: of check_image(). `backing`: nullptr when it is not at hand. Writes nothing.
RepairPlan plan_repair(const Pmem& pmem, const CheckReport& report, const BackingFile* backing);

// Does the steps, each durable before the next: on pmem by its fence, and where a fence is not
// enough (a plain file) by `sync`. What was there before is the caller's to keep.
Status apply_repair(Pmem& pmem, const RepairPlan& plan,
                    const std::function<Status()>& sync = nullptr);

}  // namespace pcache
