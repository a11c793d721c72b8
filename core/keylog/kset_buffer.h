// SPDX-License-Identifier: GPL-2.0-or-later
// KsetBuffer: one kset in DRAM, laid out as it goes to media: the header and its keys in one piece.
// An open kset is under its stripe's lock; from KeyLog::seal() on it belongs to the log.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/biased_mutex.h"
#include "format/codec.h"

namespace pcache {

struct KsetBuffer {
  media::KsetHeader header;
  media::Key keys[media::kKeysPerKset];
  uint32_t n = 0;
  // The thread that has stored data of some keys and not fenced it; or no thread, or several.
  static constexpr ThreadSerial kNobody = 0, kSeveral = UINT64_MAX;
  ThreadSerial unfenced_by = kNobody;
  KsetBuffer* next = nullptr;
  KsetBuffer* next_made = nullptr;  // in the log's list of all buffers
};
static_assert(offsetof(KsetBuffer, keys) == sizeof(media::KsetHeader));

}  // namespace pcache
