// SPDX-License-Identifier: GPL-2.0-or-later
// Repair: changes an image only where no guess is needed and nothing is lost.
//
//   torn replica            stores the record that serves over it
//   lost generation         stores the one that the log proves
//   gc_percent out of range stores the one that is used
//   torn kset at the end    clears its header: the log ends behind its last valid kset
//   damaged clean data      stores the backing device's data, if it satisfies the crc
//
// Everything else stays and is reported. No step makes an image attach that did not: that would
// take a guess, or give up acknowledged data.
//
// Crash: each step is one that the cache takes, too, at attach or later (it stores a record over
// the replica that does not serve, clears an invalid header, replaces data that fails its crc). So
// half a repair makes no image worse. Run it again.
#pragma once

#include "blockdev/backing_reader.h"
#include "inspect/check.h"

namespace pcache {

struct RepairStep {
  std::string what;  // "write cache_info to its replica 0"
  std::string why;
  MediaOff at;  // of the change
  std::vector<std::byte> bytes;
};

struct RepairPlan {
  std::vector<RepairStep> steps;
  std::vector<std::string> left;  // what is not repaired, and why
  std::vector<uint32_t> chain;    // of segments, whose records the steps go by
};

// `report`: of check_image(). `backing`: nullptr if there is none. Writes nothing.
RepairPlan plan_repair(const Pmem& pmem, const CheckReport& report, const BackingReader* backing);

// Makes durable what the steps go by (persist_frame()), and does them. Each is durable before the
// next: by pmem's fence, and by `sync` where a fence is not enough (a plain file). The caller keeps
// the old content.
Status apply_repair(Pmem& pmem, const RepairPlan& plan,
                    const std::function<Status()>& sync = nullptr);

}  // namespace pcache
