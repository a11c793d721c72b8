// SPDX-License-Identifier: GPL-2.0-or-later
// Fill: from the device read of a gap to its CLEAN keys. The device reads straight into the
// request's buffer; from there the data is cached, and goes to the reads that have joined.
//
// Invariants
// - A gap is fetched once: its sectors carry the fill's token in the index from before the device
//   read starts, and a second reader joins the fill instead.
// - A fill puts its data only where its token still stands: a write in between has taken it off.
// - A joined reader gets its bytes from the first reader's buffer before that request is completed.
// - Where the device read fails, who joined it for all of it fails, too. Who joined it for a part,
//   or one that was read ahead, reads that by itself, uncached.
// - A fill that finds no free segment, or whose device read fails, takes its tokens off; a full
//   cache never fails a read.
// Threads: started by its queue's, or by whoever completes the one that it had joined; completed by
// whoever polls its queue's device.
#pragma once

#include <cstddef>

#include "base/ids.h"
#include "blockdev/block_device.h"
#include "index/index.h"

namespace pcache {

struct PendingRequest;
struct QueueState;

// A gap of a read on its way from the backing device; or a part of a read that has joined such a
// one, and gets its data from there.
struct Fill {
  BlockIo io;
  Extent extent;
  std::byte* dst = nullptr;
  FillToken token;      // none: nobody knows of it, and its data is not kept
  bool is_kept = true;  // in the cache, if there is room
  PendingRequest* owner = nullptr;
  Fill* joins = nullptr;  // under the stripe's lock
  Fill* next = nullptr;   // in the one list that it is in
};

// Reads fill->extent into fill->dst; the completion caches it, and finishes its part of its owner
// and of the reads that wait for it.
void start_fill(QueueState& queue, Fill* fill);

}  // namespace pcache
