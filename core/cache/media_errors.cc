// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/media_errors.h"

#include <cinttypes>

namespace pcache {

// Of a file that was cut, every segment behind its end is bad: one cause, and one message.
bool MediaErrors::say_if_cut() {
  const auto bytes = pmem_.cut_to_bytes();
  if (!bytes) return false;
  if (!cut_said_.exchange(true))
    messages_.print(
        LogLevel::kError,
        "cache device %s: the file was cut to %" PRIu64 " bytes while attached, %" PRIu64
        " are in use: what was behind is gone, and fails with EIO; stop, and export what "
        "is left",
        pmem_.path(), *bytes, pmem_.size_bytes());
  return true;
}

void MediaErrors::segment_retired(SegId seg, MediaOff at) {
  if (say_if_cut()) return;
  const uint32_t before = segments_.fetch_add(1);
  if (before >= kMostLines) return;
  messages_.print(
      LogLevel::kError,
      "cache device %s: media error in the page at %" PRIu64
      ": segment %u takes no more data until the next attach%s",
      pmem_.path(), at.v, seg.v,
      before + 1 == kMostLines ? "; further ones are only counted (status, retired)" : "");
}

void MediaErrors::log_failed(const Error& error) {
  say_if_cut();
  messages_.print(LogLevel::kError, "cache device %s: %s; writes fail with EIO from now on",
                  pmem_.path(), error.text.c_str());
}

}  // namespace pcache
