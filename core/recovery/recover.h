// SPDX-License-Identifier: GPL-2.0-or-later
// Recovery: from an image's log to the state in DRAM. The one way in, for attaching and for looking
// at an image offline. Writes nothing to media: what it had to put right in DRAM (generations that
// the log proves) the caller persists once everything else has held, see persist_raised().
//
// Steps, each of which refuses what it cannot trust: tails, replay (again, when the log proves a
// younger generation than a segment's record), verification of the data.
#pragma once

#include <memory>
#include <string>

#include "recovery/replay.h"
#include "recovery/verify.h"
#include "segment/format_device.h"

namespace pcache {

struct RecoverOptions {
  uint64_t device_bytes = 0;  // of the backing device
  uint32_t block_bytes = kSectorBytes;
  uint32_t stripes = 1;      // of the index, a power of two
  uint32_t log_reserve = 2;  // of the segment table
  std::function<void(uint64_t)> verify_progress = nullptr;
};

struct Recovered {
  Tails tails;
  std::unique_ptr<SegmentTable> segments;
  std::unique_ptr<Index> index;
  ReplayResult replayed;
  VerifyResult verified;
  // Names a kset that was copied over a later one; empty: there is none. What the cache then holds
  // can be read, but to write it back may lose what is newer.
  std::string copied_kset;
};

// The same of a blank device with `frame` as a format will leave it, without a look at the media:
// all memory is taken. After the format: load_formatted().
Status recover_blank(Pmem& pmem, const DeviceFrame& frame, const RecoverOptions& options,
                     Recovered* out);
Status load_formatted(Pmem& pmem, DeviceFrame* frame, const RecoverOptions& options,
                      Recovered* out);

// Into a fresh `out`. EUCLEAN: the image is damaged; EIO: media error; EINVAL: it does not fit the
// backing device; ENOMEM. One thread.
Status recover(Pmem& pmem, const DeviceFrame& frame, const RecoverOptions& options,
               const Log& messages, Recovered* out);

}  // namespace pcache
