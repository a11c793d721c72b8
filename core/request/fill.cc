// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/fill.h"

#include <algorithm>
#include <cstring>

#include "base/mutants.h"
#include "request/queue.h"

namespace pcache {

namespace {

struct CachedPart {
  Extent extent;
  Place place;
  uint32_t crc;
};

// The data into cache places, fenced; as much as there is room for.
std::vector<CachedPart> store_fill(RequestContext& ctx, DataHead& head, const Fill& fill) {
  std::vector<CachedPart> parts;
  Extent todo = fill.extent;
  // What space there is belongs to the writes that wait for it.
  if (ctx.readonly || !ctx.deferred.empty()) todo.len = 0;
  auto* from = static_cast<const std::byte*>(fill.io.buf);
  while (todo.len > 0) {
    const auto place = head.allocate(ctx.key_len(todo.off, todo.len));
    if (!place) break;
    ctx.pmem.store(ctx.segments.media(place.pos), from, place.len);
    parts.push_back(
        {{todo.off, place.len}, place, ctx.data_crc ? data_crc32c(from, place.len) : 0});
    todo.off += place.len;
    todo.len -= place.len;
    from += place.len;
  }
  if (!parts.empty()) ctx.pmem.fence();
  if (parts.empty() || todo.len > 0) ctx.counters.fills_uncached.add();
  return parts;
}

// Enters what of the part nobody has written meanwhile: one CLEAN key for each run.
void enter_part(RequestContext& ctx, Stripe& stripe, const Fill& fill, const CachedPart& part,
                std::vector<Extent>* runs, KeyLog::Ticket* ticket) REQUIRES(stripe.mu) {
  runs->clear();
  const Status mapped = ctx.index.finish_fill(part.extent, fill.token,
                                              Location{part.place.pos, true, part.crc}, runs);
  const SegId seg = part.place.pos.seg;
  if (!mapped) runs->clear();
  if (hazard(Hazard::kFillOverNewer) && !(runs->size() == 1 && runs->front() == part.extent)) {
    *runs = {part.extent};
    (void)ctx.index.insert(part.extent, Location{part.place.pos, true, part.crc});
  }
  for (const Extent& run : *runs) {
    const CachePos pos = part.place.pos + static_cast<uint32_t>(run.off - part.extent.off);
    uint32_t crc = part.crc;
    if (ctx.data_crc) {
      if (!(run == part.extent))
        crc = data_crc32c(static_cast<const std::byte*>(fill.io.buf) + (run.off - fill.extent.off),
                          run.len);
      ctx.index.set_crc(run, pos, crc);
    }
    const auto key = ctx.make_key(run, pos, ctx.segments.generation(pos.seg), true, crc);
    if (const auto t = ctx.stripes.append(stripe, key)) *ticket = t;
  }
  // The place came with one reference; there are runs->size() keys.
  if (runs->empty())
    ctx.segments.drop_refs(seg);
  else
    ctx.segments.add_refs(seg, static_cast<int64_t>(runs->size()) - 1);
}

std::vector<FillJoin> end_fill(RequestContext& ctx, Fill* fill,
                               const std::vector<CachedPart>& parts) {
  Stripe& stripe = ctx.stripes.of(fill->extent.off);
  KeyLog::Ticket ticket = 0;
  std::vector<FillJoin> joins;
  {
    BiasedLock lock(stripe.mu);
    std::vector<Extent> runs;
    for (const CachedPart& part : parts) enter_part(ctx, stripe, *fill, part, &runs, &ticket);
    ctx.index.abandon_fill(fill->extent, fill->token);  // what found no room, or failed
    stripe.fills.remove(fill->token);
    joins.swap(fill->joins);
  }
  if (ticket) {
    // CLEAN keys lost to a full log cost a device read later, nothing else.
    const Status committed = ctx.log.commit(ticket);
    (void)committed;
  }
  return joins;
}

void on_device_done(BlockIo* io) {
  auto* fill = static_cast<Fill*>(io->ctx);
  Queue& queue = *fill->owner->queue;
  RequestContext& ctx = queue.context();
  const int error = io->result;
  std::vector<FillJoin> joins;
  if (error) ctx.counters.backing_errors.add();
  if (fill->token.v != 0) {
    std::vector<CachedPart> parts;
    if (!error) parts = store_fill(ctx, queue.head(), *fill);
    joins = end_fill(ctx, fill, parts);
  }
  for (const FillJoin& join : joins) {
    if (!error)
      memcpy(join.dst,
             static_cast<const std::byte*>(fill->io.buf) + (join.extent.off - fill->extent.off),
             join.extent.len);
    finish_part(join.read, error);
  }
  PendingRequest* owner = fill->owner;
  queue.return_fill(fill);
  finish_part(owner, error);
}

}  // namespace

void start_fill(RequestContext& ctx, Queue& queue, Fill* fill, std::byte* dst) {
  ctx.counters.fills.add();
  ctx.counters.fill_bytes.add(fill->extent.len);
  fill->io.op = BlockOp::kRead;
  fill->io.off = fill->extent.off;
  fill->io.len = static_cast<uint32_t>(fill->extent.len);
  fill->io.buf = dst;
  fill->io.done = on_device_done;
  fill->io.ctx = fill;
  queue.device().submit(&fill->io);
}

void finish_part(PendingRequest* read, int error) {
  if (error) {
    int none = 0;
    read->error.compare_exchange_strong(none, error, std::memory_order_relaxed);
  }
  if (read->parts.fetch_sub(1, std::memory_order_acq_rel) == 1) read->queue->complete(read);
}

}  // namespace pcache
