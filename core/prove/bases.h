// SPDX-License-Identifier: GPL-2.0-or-later
// The states of both media at the start of a workload.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "prove/recoveries.h"
#include "prove/session.h"

namespace pcache {

struct Base {
  std::string name;
  bool data_crc = false;
  bool strict = true;  // the option backing_order of all who attach it
  std::unique_ptr<PmemSim> pmem;
  Sectors device;
  std::vector<std::vector<std::byte>> device_bytes;  // what `device` points to
  Oracle oracle;
  uint64_t hash = 0;  // differs between bases; see CrashPoint
  Recoveries recoveries;
};

// blank: zeros; the first attach formats.
// fresh: formatted, attached and closed once.
// old: behind the log's end, and at the start of the segments it may go on in, are whole ksets of
//   an earlier life, which name data that is still there: as after a segment was freed and taken
//   again.
// roll: as old, and the log is at the end of its segment, with room for one small kset.
// full: dirty data in every segment; a write must wait for space.
// used: as a kernel target leaves it that has freed a segment, and not moved key_tail: keys whose
//   data is overwritten, then ksets in another log segment, of 128 keys and of few, all dirty.
std::vector<std::string> base_names();
// Of the name, with "+crc" and "+relaxed" behind it.
std::unique_ptr<Base> make_base(const std::string& name, bool data_crc, bool strict = true);

// The same for a front and a backend: it has an identity. `small`: with gc_percent 1, so that what
// is written back soon leaves the cache.
std::unique_ptr<Base> make_two_sides_base(const std::string& name, bool data_crc, bool strict,
                                          bool small);

}  // namespace pcache
