// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/op_read.h"

#include <algorithm>
#include <array>

#include "request/fill.h"
#include "request/hit.h"

namespace pcache {

namespace {

constexpr size_t kPieces = 8;

// The whole of a read that lies within one page which is cached in one piece, as most do; false:
// nothing is done yet, walk() will see to it.
[[gnu::always_inline]] inline bool copy_page_hit(const Parts& parts, uint64_t off,
                                                 uint64_t len_bytes, void* dst) {
  const uint64_t in_page = off % kPageBytes;
  if (in_page + len_bytes > kPageBytes) return false;
  Index::Page page;
  Index::Snapshot snapshot;
  if (!parts.index.find_page(off, &page, &snapshot)) [[unlikely]]
    return false;
  // Taken before page.after(): a lookup that has lost a race may name the last sector of a segment,
  // and page.after() would then name the next one.
  const SegmentTable::View seg = parts.segments.view(page.slot.pos().seg);
  page = page.after(in_page / kSectorBytes);
  const MediaOff at = seg.media(page.slot.pos().off);
  parts.pmem.prefetch(at);
  // A hit that a write makes void leaves a mark, which costs no more than a copy later.
  policy::note_page_hit(parts.retention, at, off);
  parts.stripes.of(off).mu.settle();
  const uint64_t gen = seg.generation();
  return parts.index.still_valid(snapshot) &&
         copy_page(parts, page, seg, len_bytes, gen, dst) == HitResult::kOk;
}

// Of a lookup: its pieces, in ascending order without gaps, and what says whether they still count.
struct Found {
  std::array<Piece, kPieces> pieces;
  size_t n = 0;
  Index::Snapshot snapshot;
};

// Bad data that is also on the backing device is forgotten and read from there; bad dirty data is
// an error, each time it is read. Returns it, or 0.
int handle_bad(RequestState& cache, const Piece& piece) {
  const Parts& parts = cache.parts();
  if (!piece.clean) {
    cache.counters().dirty_bad.add();
    parts.messages.print(
        LogLevel::kError,
        "dirty data of range %llu+%llu is damaged (segment %u:%u): reads of it fail",
        static_cast<unsigned long long>(piece.extent.off),
        static_cast<unsigned long long>(piece.extent.len), piece.pos.seg.v, piece.pos.off);
    return EIO;
  }
  Stripe& stripe = parts.stripes.of(piece.extent.off);
  StripeLock lock(stripe);
  if (parts.index.remove(piece.extent, piece.pos) > 0) cache.counters().clean_dropped.add();
  return 0;
}

// Looks up the front of `at` and copies what is cached of it. `gap` is the one that it has come to,
// if any. A positive errno, or 0.
int copy_hits(RequestState& cache, ReadProgress* at, Found* found, const Piece** gap) {
  const Parts& parts = cache.parts();
  const uint64_t to_boundary = kRangeBytes - at->todo.off % kRangeBytes;
  const Extent in_range{at->todo.off, std::min(at->todo.len, to_boundary)};
  found->n = parts.index.lookup(in_range, found->pieces, &found->snapshot);
  PCACHE_DCHECK(found->n > 0 && found->n <= kPieces);
  // Makes visible what the thread with the bias has stored without a fence.
  parts.stripes.of(in_range.off).mu.settle();
  std::array<uint64_t, kPieces> gens;
  size_t hits = 0;
  for (; hits < found->n && found->pieces[hits].kind == Piece::Kind::kHit; hits++)
    gens[hits] = parts.segments.generation(found->pieces[hits].pos.seg);
  if (!parts.index.still_valid(found->snapshot)) return 0;
  for (size_t i = 0; i < hits; i++) {
    const Piece& piece = found->pieces[i];
    if (i + 1 < hits) {  // while this one is copied, and verified
      const Piece& ahead = found->pieces[i + 1];
      parts.pmem.prefetch(parts.segments.media(ahead.pos), ahead.extent.len);
    }
    const HitResult got = copy_hit(parts, piece, gens[i], at->dst);
    if (got == HitResult::kGone) return 0;
    if (got == HitResult::kBad) return handle_bad(cache, piece);
    policy::note_hit(parts.retention, parts.segments.media(piece.pos), piece.extent.off,
                     piece.extent.len);
    at->pass(piece.extent.len);
  }
  if (hits < found->n) *gap = &found->pieces[hits];
  return 0;
}

// The run that this miss goes on with; nothing where nobody asks.
policy::SequentialMisses::Went run_of(QueueState& queue, const Extent& miss) {
  const RequestState& cache = queue.cache;
  const bool asks = cache.seq_cutoff_bytes() != 0 || cache.read_ahead_bytes() != 0;
  return asks ? queue.sequential_misses.goes_on_with(miss) : policy::SequentialMisses::Went{};
}

// Whether a miss is cached.
bool keeps(const RequestState& cache, const Extent& miss, uint64_t run) {
  if (!cache.parts().mode->answers().fills) return false;
  const uint64_t cutoff = cache.seq_cutoff_bytes();
  if (cutoff != 0 && run > cutoff) return false;
  return cache.parts().retention.admits(miss);
}

// Starts a fill for `gap`, which `seen` has shown at the front of `at`, or joins the one that
// fetches it. The request is in flight then; `pending` is taken for its first gap. False: no fill
// is free.
[[gnu::noinline]] bool fetch(QueueState& queue, pcache_request* request, Piece gap,
                             const Index::Snapshot& seen, ReadProgress* at,
                             PendingRequest** pending) {
  RequestState& cache = queue.cache;
  const Parts& parts = cache.parts();
  Stripe& stripe = parts.stripes.of(gap.extent.off);
  Fill* fill = nullptr;
  bool kept = false;
  policy::SequentialMisses::Went run;
  {
    StripeLock lock(stripe);
    if (!parts.index.still_valid(seen)) {
      Index::Snapshot now;
      parts.index.lookup(Extent{gap.extent}, {&gap, 1}, &now);
      if (gap.kind == Piece::Kind::kHit) return true;  // somebody cached it meanwhile
    }
    PCACHE_CHECK(gap.extent.off == at->todo.off && gap.extent.len <= at->todo.len);
    if (*pending == nullptr) *pending = queue.in_flight.take(request, queue.ops[PCACHE_OP_READ]);
    PendingRequest* const read = *pending;
    fill = queue.completions.take_fill();
    if (fill == nullptr) return false;
    fill->extent = gap.extent;
    fill->dst = at->dst;
    fill->owner = read;
    fill->is_kept = true;
    fill->joins = nullptr;
    at->pass(gap.extent.len);
    at->fetched_bytes += gap.extent.len;
    read->parts_to_come.fetch_add(1, std::memory_order_relaxed);
    if (gap.kind == Piece::Kind::kFill) {
      Fill* other = stripe.fills.find(gap.token);
      PCACHE_CHECK(other != nullptr && other->extent.off <= gap.extent.off &&
                   gap.extent.end() <= other->extent.end());
      fill->next = other->joins;
      other->joins = fill;
      if (other->owner->queue != read->queue) queue.in_flight.note_joined(read);
      cache.counters().fill_joins.add();
      return true;
    }
    run = run_of(queue, gap.extent);
    fill->is_kept = kept = keeps(cache, gap.extent, run.bytes);
    fill->token = stripe.fills.add(fill);
    if (fill->token.v != 0 && !parts.index.begin_fill(gap.extent, fill->token)) {
      stripe.fills.remove(fill->token);
      fill->token = {};
    }
  }
  // Without room for its token or its marks: it is read all the same, uncached and unshared.
  if (fill->token.v == 0) cache.counters().fills_uncached.add();
  start_fill(queue, fill);
  // Over what was skipped a program may go on skipping.
  if (kept && at->todo.len == 0 && run.skipped == 0) read_ahead(queue, gap.extent, run.bytes);
  return true;
}

struct Walked {
  bool all = true;  // false: no fill is free; to be called again when one is
  int error = 0;    // positive errno: not all of it, and for good
};

// Copies what is cached from `at` on and fetches the gaps, until all of the request has been looked
// at.
Walked walk(QueueState& queue, pcache_request* request, ReadProgress* at,
            PendingRequest** pending) {
  while (at->todo.len > 0) {
    Found found;
    const Piece* gap = nullptr;
    if (const int error = copy_hits(queue.cache, at, &found, &gap)) return {true, error};
    if (gap != nullptr && !fetch(queue, request, *gap, found.snapshot, at, pending)) return {false};
  }
  return {};
}

// Nothing more of it will be looked at.
void end_walk(QueueState& queue, PendingRequest* read, int error) {
  PCACHE_DCHECK(read->read.fetched_bytes <= read->request->len);
  PCACHE_DCHECK(error != 0 || read->read.todo.len == 0);
  const bool missed_all = read->read.fetched_bytes == read->request->len;
  (missed_all ? queue.counters.read_misses : queue.counters.read_partial).add_alone();
  queue.completions.finish_part(read, error);
}

// `since_ns`: when it began, if it is timed, else 0.
[[gnu::noinline]] int submit_any_read(QueueState& queue, pcache_request* request,
                                      uint64_t since_ns) {
  queue.counters.reads.add_alone();
  queue.counters.read_bytes.add_alone(request->len);
  if (!queue.parked_reads.empty()) resume_parked_reads(queue);  // they come before
  ReadProgress at{{request->off, request->len}, static_cast<std::byte*>(request->buf)};
  PendingRequest* pending = nullptr;
  const auto [all, error] = walk(queue, request, &at, &pending);
  if (pending == nullptr) {
    if (error == 0) queue.counters.read_hits.add_alone();
    return queue.complete_at_once(request, -error, LatencyClass::kReadHit, since_ns);
  }
  pending->read = at;
  queue.device->kick();
  if (all)
    end_walk(queue, pending, error);
  else
    queue.parked_reads.push_back(pending);
  queue.settle_ready_fd();
  return 0;
}

[[gnu::noinline]] int submit_timed_read(QueueState& queue, pcache_request* request) {
  const uint64_t since_ns = now_ns();
  if (!copy_page_hit(queue.cache.parts(), request->off, request->len, request->buf))
    return submit_any_read(queue, request, since_ns);
  queue.counters.reads.add_alone();
  queue.counters.read_bytes.add_alone(request->len);
  queue.counters.read_hits.add_alone();
  return queue.complete_at_once(request, 0, LatencyClass::kReadHit, since_ns);
}

}  // namespace

int submit_read(QueueState& queue, pcache_request* request) {
  if (is_timed(queue.counters.reads)) [[unlikely]]
    return submit_timed_read(queue, request);
  if (!copy_page_hit(queue.cache.parts(), request->off, request->len, request->buf)) [[unlikely]]
    return submit_any_read(queue, request, 0);
  queue.counters.reads.add_alone();
  queue.counters.read_bytes.add_alone(request->len);
  queue.counters.read_hits.add_alone();
  return 1;
}

void resume_parked_reads(QueueState& queue) {
  while (PendingRequest* read = queue.parked_reads.front()) {
    const auto [all, error] = walk(queue, read->request, &read->read, &read);
    if (!all) break;
    queue.parked_reads.pop_front();
    end_walk(queue, read, error);
  }
  queue.device->kick();
  queue.settle_ready_fd();
}

void cancel_parked_reads(QueueState& queue) {
  while (PendingRequest* const read = queue.parked_reads.pop_front())
    end_walk(queue, read, ECANCELED);
}

}  // namespace pcache
