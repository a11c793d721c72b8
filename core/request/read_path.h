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
// Threads: a fill is completed by whoever polls its owner's block queue.
#pragma once

#include <vector>

#include "pcache.h"
#include "request/context.h"
#include "request/hit.h"

namespace pcache {

struct FillJoin {
  PendingRequest* read;
  Extent extent;
  std::byte* dst;
};

struct Fill {
  BlockIo io;
  Extent extent;
  FillToken token;
  PendingRequest* owner = nullptr;
  std::vector<FillJoin> joins;  // under the stripe's lock
};

class ReadPath {
 public:
  ReadPath(RequestContext& ctx, Queue& queue) : ctx_(ctx), queue_(queue) {}

  struct Started {
    int error = 0;                      // positive errno
    uint64_t fetched_bytes = 0;         // of gaps
    PendingRequest* pending = nullptr;  // gaps are under way in it; nullptr: the read is complete
  };
  Started start(pcache_request* request);
  // The whole of start() for what lies within one page that is cached in one piece, as most are;
  // false: nothing is done yet, start() will see to it.
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
  // Starts or joins fills for the gap at the front of `todo` (which lies in one range).
  int fetch(Extent todo, std::byte* dst, uint64_t* covered);
  PendingRequest* pending_read();

  RequestContext& ctx_;
  Queue& queue_;
  pcache_request* request_ = nullptr;
  PendingRequest* pending_ = nullptr;
};

}  // namespace pcache
