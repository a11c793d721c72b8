// SPDX-License-Identifier: GPL-2.0-or-later
// The read path: hits are copied at once in the caller's thread; each gap becomes one Fill, a read
// of the backing device straight into the request's buffer, whose data is then cached as CLEAN
// keys.
//
// Invariants
// - A gap is fetched once: its sectors carry the fill's token in the index from before the device
//   read starts, and a second reader joins the fill instead.
// - A fill puts its data only where its token still stands: a write in between has taken it off.
// - A joined reader gets its bytes from the first reader's buffer before that request is completed.
// - A fill that finds no free segment, or whose device read fails, takes its tokens off; a full
//   cache never fails a read.
// - Nothing here takes memory. A queue has so many fills from its start; a read that needs one more
//   is parked in the queue, and goes on when one of them has come back. Each of them is on its way:
//   at the device, or joined to one that is.
// Threads: a fill is completed by whoever polls its owner's block queue. A read is looked at by its
// queue's thread alone.
#pragma once

#include "pcache.h"
#include "request/context.h"
#include "request/hit.h"

namespace pcache {

// A gap of a read on its way from the backing device; or a part of a read that has joined such a
// one, and gets its data from there.
struct Fill {
  BlockIo io;
  Extent extent;
  std::byte* dst = nullptr;
  FillToken token;  // none: nobody knows of it, and its data is not kept
  PendingRequest* owner = nullptr;
  Fill* joins = nullptr;  // under the stripe's lock
  Fill* next = nullptr;   // in the one list that it is in
};

class ReadPath {
 public:
  ReadPath(RequestContext& ctx, Queue& queue) : ctx_(ctx), queue_(queue) {}

  enum class Walked {
    kAll,
    kParked,  // no fill is free: to be called again when one is
    kFailed,
  };
  struct Outcome {
    Walked walked = Walked::kAll;
    int error = 0;  // kFailed: positive errno
  };
  // Copies what is cached from `at` on and starts fills for the gaps, until all of the request has
  // been looked at. `read`: what stands for it in the queue; lent when the first gap is met.
  Outcome walk(pcache_request* request, ReadProgress* at, PendingRequest** read);
  // The whole of walk() for what lies within one page that is cached in one piece, as most are;
  // false: nothing is done yet, walk() will see to it.
  [[gnu::always_inline]] bool copy_page_hit(uint64_t off, uint64_t len_bytes, void* dst) {
    const RequestContext& ctx = ctx_;
    const uint64_t in_page = off % kPageBytes;
    if (in_page + len_bytes > kPageBytes) return false;
    Index::Page page;
    Index::Snapshot snapshot;
    if (!ctx.index.find_page(off, &page, &snapshot)) [[unlikely]]
      return false;
    // Before the next line: what a lost race has found may be in the last sector of a segment.
    const SegmentTable::View seg = ctx.segments.view(page.slot.pos().seg);
    page = page.after(in_page / kSectorBytes);
    ctx.pmem.prefetch(seg.media(page.slot.pos().off));
    ctx.stripes.of(off).mu.settle();
    const uint64_t gen = seg.generation();
    return ctx.index.still_valid(snapshot) &&
           copy_page(ctx, page, seg, len_bytes, gen, dst) == HitResult::kOk;
  }

 private:
  // Copies the hits at the front of `todo`; stops at the first gap. Returns the bytes covered.
  int copy_hits(Extent todo, std::byte* dst, uint64_t* covered);
  int handle_bad(const Piece& piece);
  // Starts or joins a fill for the gap at the front of `gap` (which lies in one range), if there
  // still is one. False: no fill is free.
  bool fetch(pcache_request* request, Extent gap, ReadProgress* at, PendingRequest** lent);

  RequestContext& ctx_;
  Queue& queue_;
};

}  // namespace pcache
