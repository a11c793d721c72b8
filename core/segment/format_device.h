// SPDX-License-Identifier: GPL-2.0-or-later
// Formatting a blank cache device and reading a formatted one's frame: superblock, cache_info and
// the chain of segments.
//
// Crash during a format: the superblock's magic goes last, so a half-formatted device is still
// blank.
#pragma once

#include <optional>
#include <vector>

#include "base/log.h"
#include "format/codec.h"
#include "format/layout.h"
#include "pmem/pmem.h"

namespace pcache {

struct FormatOptions {
  bool data_crc = false;
  uint32_t gc_percent = media::kGcPercentDefault;
};

// Writes the empty cache that the kernel target would write, byte for byte.
void format_device(Pmem& pmem, const FormatOptions& options);

// What follows a segment in the chain; nothing when its record does not say. A record that says
// "nothing" while the other replica is torn may be the one of before the next was linked: then it
// is what formatting has made it, if that is so of every record that does say (`*guessed`).
std::optional<uint32_t> next_segment(const Pmem& pmem, uint32_t physical, uint32_t seg_num,
                                     bool* guessed);

struct DeviceFrame {
  uint32_t seg_num = 0;  // the superblock's; the cache may use fewer
  CacheInfoFields info;
  Replicated<media::CacheInfo> info_record;
  std::vector<uint32_t> chain;  // physical segment of each SegId
};

enum class DeviceState { kBlank, kFormatted };
// Blank, formatted, or an error that names what stands in the way. Too small: EINVAL.
Result<DeviceState> probe_device(const Pmem& pmem);
Result<DeviceFrame> load_frame(const Pmem& pmem, const Log& log);

// Replaces gc_percent (and rewrites the record, as every attach does).
void write_cache_info(Pmem& pmem, DeviceFrame& frame);

}  // namespace pcache
