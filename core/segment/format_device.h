// SPDX-License-Identifier: GPL-2.0-or-later
// Formatting a blank cache device and reading a formatted one's frame: superblock, cache_info and
// the chain of segments.
//
// A device is blank if its first 20 KiB are zeros. It is blank, too, if an interrupted format has
// left its mark there (media::kFormatMark). A format stores the mark before it changes anything
// else; at the end it stores the superblock's magic, then clears the mark.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/log.h"
#include "format/codec.h"
#include "format/layout.h"
#include "pmem/pmem.h"

namespace pcache {

struct FormatOptions {
  bool data_crc = false;
  uint32_t gc_percent = media::kGcPercentDefault;
  CacheMode mode = CacheMode::kWriteback;
};

// Writes the empty cache that the kernel target would write, byte for byte.
Status format_device(Pmem& pmem, const FormatOptions& options);

// The segment that follows in the chain; nothing if the record does not say. A record that says
// "nothing" while the other replica is torn may be older than the link. Then the link is taken to
// be as formatting makes it, if all records that have a link agree with that (`*guessed`).
std::optional<uint32_t> next_segment(const Pmem& pmem, uint32_t physical, uint32_t seg_num,
                                     bool* guessed);

// Formats one segment's head: empty, generation 0, with a link to `next` if there is one. Durable
// after the caller's next fence.
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
// Of a device that is refused: whether its superblock is of another version, see other_version.h.
bool is_review_version(const Pmem& pmem);
// Blank, formatted, or an error that says what is wrong. Too small: EINVAL. A device that can be
// extended counts with the size that it will have.
Result<DeviceState> probe_device(const Pmem& pmem);
// The frame that a format of a blank device will leave.
DeviceFrame frame_of_blank(uint64_t device_bytes, const FormatOptions& options);
// Clears the mark of an interrupted format where a whole superblock stands.
void clear_format_mark(Pmem& pmem);
// One sentence about the part of the device that the cache does not use; empty: it uses all.
std::string unused_text(uint64_t device_bytes, uint32_t n_segs);
Result<DeviceFrame> load_frame(const Pmem& pmem, const Log& log);

// Stores cache_info as `frame` has it, as every attach does.
// EIO: the replica that would be written is on a bad page; the record stays as it is.
Status write_cache_info(Pmem& pmem, DeviceFrame& frame);
// The same by a tool, which attaches nothing: persist_frame() first.
Status change_cache_info(Pmem& pmem, DeviceFrame& frame);
// Flushes identity block, superblock, cache_info and tails, where they can be read, so that they
// are durable after the next fence (Pmem::flush_seen()).
void flush_records(const Pmem& pmem, const CodeSite& site = CodeSite::current());
// Makes all of this durable, and the records of the segments in `chain`, as they are seen: a killed
// process may have left them in a CPU's cache alone. For tools that store over one replica while
// the other serves, or name less of the device than before, by what they have seen.
void persist_frame(Pmem& pmem, std::span<const uint32_t> chain);

}  // namespace pcache
