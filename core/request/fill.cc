// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/fill.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/mutants.h"
#include "request/extent_write.h"
#include "request/queue_state.h"

namespace pcache {

namespace {

constexpr size_t kRuns = 16;  // entered in one go

bool is_ahead(const Fill& fill) { return fill.owner->queue->ahead.is(&fill); }

// One CLEAN key for a run of what was mapped; `data`: of the stored extent.
void enter_run(const Parts& parts, Stripe& stripe, const StoredExtent& stored,
               const std::byte* data, const Extent& run, KeyLog::Ticket* ticket)
    REQUIRES(stripe.mu, index_turn) {
  PCACHE_DCHECK(run.len > 0 && run.off >= stored.off && run.end() <= stored.extent().end());
  const uint64_t at = run.off - stored.off;
  const CachePos pos = stored.pos() + static_cast<uint32_t>(at);
  uint32_t crc = stored.crc;
  if (parts.data_crc) {
    if (!(run == stored.extent())) crc = data_crc32c(data + at, run.len);
    parts.index.set_crc(run, pos, crc);
  }
  const auto key = make_key(run, pos, stored.gen, media::kKeyClean, crc);
  if (const auto full = parts.stripes.append(stripe, key)) *ticket = full;
}

// Enters what of it nobody has written meanwhile; returns how many bytes. What finds no memory is
// not cached.
uint64_t enter_filled(const Parts& parts, Stripe& stripe, const Fill& fill,
                      const StoredExtent& stored, KeyLog::Ticket* ticket)
    REQUIRES(stripe.mu, index_turn) {
  std::array<Extent, kRuns> runs;
  const Location location{stored.pos(), true, stored.crc};
  const std::byte* const data = fill.dst + (stored.off - fill.extent.off);
  size_t most = 0, n = 0;
  uint64_t kept_bytes = 0;
  while (n == most && parts.stripes.prepare(stripe)) {
    most = std::min<size_t>(kRuns, Stripes::room(stripe));
    n = parts.index.finish_fill(stored.extent(), fill.token, location, {runs.data(), most})
            .value_or(0);
    if (hazard(Hazard::kFillOverNewer) && !(n == 1 && runs[0] == stored.extent())) {
      runs[0] = stored.extent();
      n = 1;
      (void)parts.index.insert(stored.extent(), location);
    }
    parts.segments.add_refs(stored.pos().seg, static_cast<int64_t>(n));
    for (size_t i = 0; i < n; i++) {
      enter_run(parts, stripe, stored, data, runs[i], ticket);
      kept_bytes += runs[i].len;
    }
  }
  parts.segments.drop_refs(stored.pos().seg);  // the one that the place came with
  return kept_bytes;
}

// Caches what the device has read, if it has, and takes the fill's tokens off. Returns who has
// joined it.
Fill* end_fill(QueueState& queue, Fill* fill, bool good) {
  const Parts& parts = queue.cache.parts();
  Stripe& stripe = parts.stripes.of(fill->extent.off);
  Extent todo = fill->extent;
  // What space there is belongs to the writes that wait for it.
  const bool keeps = good && fill->is_kept && !parts.readonly && queue.cache.deferred().empty();
  for (;;) {
    std::array<StoredExtent, kMostStored> stored;
    size_t n = 0;
    if (keeps) {
      const std::byte* const from = fill->dst + (todo.off - fill->extent.off);
      const Stored now = store_extents(parts, queue.head, todo, from, stored);
      n = now.extents;
      todo = {todo.off + now.bytes, todo.len - now.bytes};
    }
    if (is_ahead(*fill))
      for (size_t i = 0; i < n; i++)
        parts.retention.came_ahead(parts.segments.media(stored[i].pos()), stored[i].len);
    if (n > 0) parts.pmem.fence();
    const bool last = todo.len == 0 || n < kMostStored;
    KeyLog::Ticket ticket = 0;
    Fill* joins = nullptr;
    uint64_t kept_bytes = 0;
    {
      StripeLock lock(stripe);
      for (size_t i = 0; i < n; i++)
        kept_bytes += enter_filled(parts, stripe, *fill, stored[i], &ticket);
      if (last) {
        parts.index.abandon_fill(fill->extent,
                                 fill->token);  // what found no room, or failed
        stripe.fills.remove(fill->token);
        joins = std::exchange(fill->joins, nullptr);
      }
    }
    queue.cache.counters().fill_kept_bytes.add(kept_bytes);
    // CLEAN keys lost to a full log cost a device read later, nothing else.
    commit_full(parts, ticket);
    if (!last) continue;
    if (good && !fill->is_kept)
      queue.cache.counters().fill_bypassed_bytes.add(fill->extent.len);
    else if (good && todo.len > 0)
      queue.cache.counters().fills_uncached.add();
    return joins;
  }
}

bool overlap(const Fill& join, const Fill& fill) {
  return join.dst < fill.dst + fill.extent.len && fill.dst < join.dst + join.extent.len;
}

// What its reader asked for may be sound, where more could not be read. A part of the read is held
// meanwhile: else its thread might end the queue as soon as the device has the request.
void read_alone(Fill* join) {
  PendingRequest* const read = join->owner;
  QueueState& queue = *read->queue;
  read->parts_to_come.fetch_add(1, std::memory_order_relaxed);
  join->token = {};
  start_fill(queue, join);
  queue.device->kick();
  queue.completions.finish_part(read, 0);
}

void finish_join(const Fill& fill, Fill* join, int error) {
  PCACHE_DCHECK(join->extent.off >= fill.extent.off && join->extent.end() <= fill.extent.end());
  if (error && (is_ahead(fill) || !(join->extent == fill.extent))) return read_alone(join);
  // The buffers overlap where two reads were given one: hence memmove().
  if (!error) memmove(join->dst, fill.dst + (join->extent.off - fill.extent.off), join->extent.len);
  PendingRequest* const read = join->owner;
  CompletionQueue& completions = read->queue->completions;
  completions.return_fill(join);
  completions.finish_part(read, error);
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
  QueueState& queue = *owner->queue;
  const int error = io->result;
  PCACHE_DCHECK(error >= 0 && io->buf == fill->dst);
  const bool ahead = is_ahead(*fill);  // nobody has asked for it
  if (error && !ahead) queue.cache.counters().backing_errors.add();
  if (fill->token.v != 0) finish_joins(*fill, end_fill(queue, fill, !error), error);
  if (ahead) return queue.ahead.end(error);
  queue.completions.return_fill(fill);
  queue.completions.finish_part(owner, error);
}

}  // namespace

void start_fill(QueueState& queue, Fill* fill) {
  queue.cache.counters().fills.add();
  queue.cache.counters().fill_bytes.add(fill->extent.len);
  PCACHE_DCHECK(fill->extent.len > 0 && fill->extent.len <= kRangeBytes &&
                fill->extent.off / kRangeBytes == (fill->extent.end() - 1) / kRangeBytes);
  fill->io.op = BlockOp::kRead;
  fill->io.off = fill->extent.off;
  fill->io.len = static_cast<uint32_t>(fill->extent.len);
  fill->io.buf = fill->dst;
  fill->io.done = on_device_done;
  fill->io.ctx = fill;
  queue.device->submit(&fill->io);
}

}  // namespace pcache
