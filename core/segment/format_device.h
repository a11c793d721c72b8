// SPDX-License-Identifier: GPL-2.0-or-later
// Formatting a blank cache device and reading a formatted one's frame: superblock, cache_info and
// the chain of segments.
//
// Crash during a format: the superblock's magic goes last, so a half-formatted device is still
// blank.
#pragma once

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
