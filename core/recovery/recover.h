// SPDX-License-Identifier: GPL-2.0-or-later
// Recovery: from an image's log to the state in DRAM. Attach and the offline tools use this alone.
// Writes nothing to media: the caller persists what it has corrected in DRAM (generations that the
// log proves) when all else has succeeded, see persist_raised().
//
// The steps; each refuses what it cannot trust: tails, replay (again, if the log has a newer
// generation than a segment's record), verification of the data.
#pragma once

#include <memory>
#include <string>

#include "recovery/replay.h"
#include "recovery/verify.h"
#include "segment/format_device.h"

namespace pcache {

struct RecoverOptions {
  uint64_t device_bytes = 0;  // of the backing device
  uint64_t most_bytes = 0;    // to which it may grow, see IndexOptions
  uint32_t block_bytes = kSectorBytes;
  uint32_t stripes = 1;        // of the index, a power of two
  uint32_t log_reserve = 2;    // of the segment table
  uint32_t most_segments = 0;  // to which it may grow
  // Flushes what is gone by, so that it is durable after the next fence: who stored it may have
  // been killed before it did. For who goes on with the cache.
  bool flush_seen = false;
  std::function<void(uint64_t)> verify_progress = nullptr;
  unsigned threads = 1;     // that work at it, with the caller's
  bool verify_data = true;  // with data_crc; false: who reads it checks it
};

// One for each CPU; a simulator's memory is to be looked at in one order.
unsigned recovery_threads(const Pmem& pmem);

struct Recovered {
  Tails tails;
  std::unique_ptr<SegmentTable> segments;
  std::unique_ptr<Index> index;
  ReplayResult replayed;
  VerifyResult verified;
  // Everything counts as dirty, since nobody knows what is not: media has another dirty_tail.
  bool dirty_tail_guessed = false;
  // Names a kset that was copied over a later one; empty: there is none. The cache can be read
  // then, but its writeback may overwrite newer data.
  std::string copied_kset;
};

// The same for a blank device, with `frame` as a format will leave it. Takes all memory, and does
// not read the media. After the format call load_formatted().
Status recover_blank(Pmem& pmem, const DeviceFrame& frame, const RecoverOptions& options,
                     Recovered* out);
Status load_formatted(Pmem& pmem, DeviceFrame* frame, const RecoverOptions& options,
                      Recovered* out);

// Fills a fresh `out`. EUCLEAN: the image is damaged; EIO: media error; EINVAL: it does not fit the
// backing device; ENOMEM. One thread calls it.
Status recover(Pmem& pmem, const DeviceFrame& frame, const RecoverOptions& options,
               const Log& messages, Recovered* out);

}  // namespace pcache
