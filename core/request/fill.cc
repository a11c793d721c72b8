// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/fill.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "base/mutants.h"
#include "request/queue.h"
#include "request/write_one.h"

namespace pcache {

namespace {

// Stored under one fence, entered under one lock.
constexpr size_t kParts = 16;
constexpr size_t kRuns = 16;

struct CachedPart {
  Extent extent;
  CachePos pos;
  uint32_t crc = 0;
  const std::byte* data = nullptr;
};

// The data at the front of `todo` into places of the cache, fenced; as much as there is room for,
// and as `parts` hold. Returns how many.
size_t store_parts(RequestContext& ctx, DataHead& head, const Fill& fill, Extent* todo,
                   std::span<CachedPart> parts) {
  size_t n = 0;
  while (todo->len > 0 && n < parts.size()) {
    const auto place = head.allocate(ctx.key_len(todo->off, todo->len));
    if (!place) break;
    const std::byte* const from = fill.dst + (todo->off - fill.extent.off);
    if (!ctx.pmem.store(ctx.segments.media(place.pos), from, place.len)) {
      ctx.give_up_place(head, place.pos.seg);
      continue;
    }
    parts[n++] = {
        {todo->off, place.len}, place.pos, ctx.data_crc ? data_crc32c(from, place.len) : 0, from};
    todo->off += place.len;
    todo->len -= place.len;
  }
  if (n > 0) ctx.pmem.fence();
  return n;
}

// One CLEAN key for a run of what was mapped.
void enter_run(RequestContext& ctx, Stripe& stripe, const CachedPart& part, const Extent& run,
               KeyLog::Ticket* ticket) REQUIRES(stripe.mu, index_turn) {
  const uint64_t at = run.off - part.extent.off;
  const CachePos pos = part.pos + static_cast<uint32_t>(at);
  uint32_t crc = part.crc;
  if (ctx.data_crc) {
    if (!(run == part.extent)) crc = data_crc32c(part.data + at, run.len);
    ctx.index.set_crc(run, pos, crc);
  }
  const auto key = ctx.make_key(run, pos, ctx.segments.generation(pos.seg), true, crc);
  if (const auto full = ctx.stripes.append(stripe, key)) *ticket = full;
}

// Enters those sectors of the part that no write has changed since the fill began. Where there is
// no memory for an entry, its sectors are not cached.
void enter_filled(RequestContext& ctx, Stripe& stripe, FillToken token, const CachedPart& part,
                  KeyLog::Ticket* ticket) REQUIRES(stripe.mu, index_turn) {
  std::array<Extent, kRuns> runs;
  const Location location{part.pos, true, part.crc};
  size_t most = 0, n = 0;
  while (n == most && ctx.stripes.prepare(stripe)) {
    most = std::min<size_t>(kRuns, Stripes::room(stripe));
    n = ctx.index.finish_fill(part.extent, token, location, {runs.data(), most}).value_or(0);
    if (hazard(Hazard::kFillOverNewer) && !(n == 1 && runs[0] == part.extent)) {
      runs[0] = part.extent;
      n = 1;
      (void)ctx.index.insert(part.extent, location);
    }
    ctx.segments.add_refs(part.pos.seg, static_cast<int64_t>(n));
    for (size_t i = 0; i < n; i++) enter_run(ctx, stripe, part, runs[i], ticket);
  }
  ctx.segments.drop_refs(part.pos.seg);  // the one that the place came with
}

// Ends a fill: caches what the device has read (if `good`, and if no write waits for space), takes
// the fill's tokens out of the index, and returns the fills that have joined this one.
Fill* end_fill(RequestContext& ctx, DataHead& head, Fill* fill, bool good) {
  Stripe& stripe = ctx.stripes.of(fill->extent.off);
  Extent todo = fill->extent;
  // What space there is belongs to the writes that wait for it.
  const bool has_room = !ctx.readonly && ctx.deferred.empty();
  for (;;) {
    std::array<CachedPart, kParts> parts;
    const size_t n = good && has_room ? store_parts(ctx, head, *fill, &todo, parts) : 0;
    const bool last = todo.len == 0 || n < kParts;
    KeyLog::Ticket ticket = 0;
    Fill* joins = nullptr;
    {
      StripeLock lock(stripe);
      for (size_t i = 0; i < n; i++) enter_filled(ctx, stripe, fill->token, parts[i], &ticket);
      if (last) {
        ctx.index.abandon_fill(fill->extent, fill->token);  // what found no room, or failed
        stripe.fills.remove(fill->token);
        joins = std::exchange(fill->joins, nullptr);
      }
    }
    // CLEAN keys lost to a full log cost a device read later, nothing else.
    commit_full(ctx, ticket);
    if (!last) continue;
    if (good && todo.len > 0) ctx.counters.fills_uncached.add();
    return joins;
  }
}

bool overlap(const Fill& join, const Fill& fill) {
  return join.dst < fill.dst + fill.extent.len && fill.dst < join.dst + join.extent.len;
}

void finish_join(const Fill& fill, Fill* join, int error) {
  // Of two requests with one buffer: the same bytes, or any.
  if (!error) memmove(join->dst, fill.dst + (join->extent.off - fill.extent.off), join->extent.len);
  PendingRequest* const read = join->owner;
  read->queue->return_fill(join);
  finish_part(read, error);
}

// Whose buffer is the fill's own comes last: what it gets there is not what the others wait for.
void finish_joins(const Fill& fill, Fill* joins, int error) {
  Fill* shared = nullptr;
  while (Fill* const join = joins) {
    joins = join->next;
    if (overlap(*join, fill)) {
      join->next = shared;
      shared = join;
    } else {
      finish_join(fill, join, error);
    }
  }
  while (Fill* const join = shared) {
    shared = join->next;
    finish_join(fill, join, error);
  }
}

void on_device_done(BlockIo* io) {
  auto* fill = static_cast<Fill*>(io->ctx);
  PendingRequest* const owner = fill->owner;
  Queue& queue = *owner->queue;
  RequestContext& ctx = queue.context();
  const int error = io->result;
  if (error) ctx.counters.backing_errors.add();
  if (fill->token.v != 0) finish_joins(*fill, end_fill(ctx, queue.head(), fill, !error), error);
  queue.return_fill(fill);
  finish_part(owner, error);
}

}  // namespace

void start_fill(RequestContext& ctx, Queue& queue, Fill* fill) {
  ctx.counters.fills.add();
  ctx.counters.fill_bytes.add(fill->extent.len);
  fill->io.op = BlockOp::kRead;
  fill->io.off = fill->extent.off;
  fill->io.len = static_cast<uint32_t>(fill->extent.len);
  fill->io.buf = fill->dst;
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
