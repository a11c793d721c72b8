// SPDX-License-Identifier: GPL-2.0-or-later
// Formatting a blank cache device and reading a formatted one's frame: superblock, cache_info and
// the chain of segments.
//
// Blank is what is zeros in its first 20 KiB, and nothing else. A format that a crash interrupted
// leaves a mark there (media::kFormatMark), which is as good: it is written before the first piece
// of what was there goes, and the superblock's magic goes last but for the mark itself.
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
Status format_device(Pmem& pmem, const FormatOptions& options);

// What follows a segment in the chain; nothing when its record does not say. A record that says
// "nothing" while the other replica is torn may be the one of before the next was linked: then it
// is what formatting has made it, if that is so of every record that does say (`*guessed`).
std::optional<uint32_t> next_segment(const Pmem& pmem, uint32_t physical, uint32_t seg_num,
                                     bool* guessed);

// One segment's head: empty, of generation 0, leading on to `next` if there is one. Durable after
// the caller's next fence.
[[nodiscard]] bool format_segment(Pmem& pmem, uint32_t physical, std::optional<uint32_t> next);
CacheInfoFields fresh_cache_info(uint32_t seg_num, const FormatOptions& options);

struct DeviceFrame {
  uint32_t seg_num = 0;   // the superblock's; the cache may use fewer
  uint32_t sb_flags = 0;  // likewise
  CacheInfoFields info;
  Replicated<media::CacheInfo> info_record;
  std::vector<uint32_t> chain;  // physical segment of each SegId
};

enum class DeviceState { kBlank, kFormatted };
// Of a device that is refused: its superblock is one of another version, see other_version.h.
bool is_review_version(const Pmem& pmem);
// Blank, formatted, or an error that names what stands in the way. Too small: EINVAL. What can be
// extended counts with the size that it will have.
Result<DeviceState> probe_device(const Pmem& pmem);
// The frame that a format of a blank device will leave.
DeviceFrame frame_of_blank(uint64_t device_bytes, const FormatOptions& options);
// The mark of an interrupted format, where a whole superblock stands: it was of no consequence.
void clear_format_mark(Pmem& pmem);
// What of a device the cache on it does not use, one sentence; empty: it uses all.
std::string unused_text(uint64_t device_bytes, uint32_t n_segs);
Result<DeviceFrame> load_frame(const Pmem& pmem, const Log& log);

// Replaces gc_percent (and rewrites the record, as every attach does).
// EIO: the replica that would be written is on a bad page; the record stays as it is.
Status write_cache_info(Pmem& pmem, DeviceFrame& frame);

}  // namespace pcache
