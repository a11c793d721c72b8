// SPDX-License-Identifier: GPL-2.0-or-later
// KsetBuffer: one kset in DRAM, laid out as it goes to media: the header and its keys in one piece.
// An open kset is under its stripe's lock; from KeyLog::seal() on it belongs to the log, which may
// move its keys into one that was sealed before.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

#include "base/biased_mutex.h"
#include "format/codec.h"

namespace pcache {

struct KsetBuffer {
  media::KsetHeader header;  // KeyLog makes it; until then its key_num is not n
  media::Key keys[media::kKeysPerKset];
  uint32_t n = 0;
  // The thread that has stored data of some keys and not fenced it; or no thread, or several.
  static constexpr ThreadSerial kNobody = 0, kSeveral = UINT64_MAX;
  ThreadSerial unfenced_by = kNobody;
  KsetBuffer* next = nullptr;
  KsetBuffer* next_made = nullptr;  // in the log's list of all buffers

  // Appends the keys of one that was sealed later, and leaves it empty.
  void take_keys_of(KsetBuffer& later) {
    std::memcpy(&keys[n], later.keys, later.n * sizeof keys[0]);
    n += later.n;
    if (unfenced_by == kNobody)
      unfenced_by = later.unfenced_by;
    else if (later.unfenced_by != kNobody && later.unfenced_by != unfenced_by)
      unfenced_by = kSeveral;
    later.n = 0;
    later.unfenced_by = kNobody;
  }
};
static_assert(offsetof(KsetBuffer, keys) == sizeof(media::KsetHeader));

}  // namespace pcache
