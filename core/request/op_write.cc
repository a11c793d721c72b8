// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/op_write.h"

#include <utility>

#include "base/mutants.h"
#include "request/extent_write.h"
#include "request/op_flush.h"
#include "request/zero_write.h"

namespace pcache {

namespace {

// The next part; -EAGAIN: there is more.
int write_some_zeros(const Parts& parts, DataHead& head, const pcache_request& request,
                     WriteProgress* progress) {
  const uint64_t done = progress->done_bytes;
  if (done == request.len) return 0;
  const uint32_t hole = request.op == PCACHE_OP_DISCARD ? media::kKeyHole : 0;
  if (const int result = write_zeros(parts, head, {request.off + done, request.len - done},
                                     media::kKeyZeros | hole, &progress->done_bytes))
    return result;
  return progress->done_bytes < request.len ? -EAGAIN : 0;
}

// From where `progress` says. 0 or a negative errno; then any part of the range may have been
// written. -ENOSPC: no segment is free; to be called again when one is, with the same `progress`.
// -EBUSY: likewise, when more is written back; -EAGAIN: likewise, at once.
// -EIO: the media is bad where the log goes on, or in all segments that there are.
[[gnu::always_inline]] inline int write_into_cache(RequestState& cache, DataHead& head,
                                                   const pcache_request& request, bool to_device,
                                                   WriteProgress* progress) {
  PCACHE_DCHECK(progress->admitted && progress->done_bytes <= request.len);
  if (cache.parts().log.failed()) return -EIO;  // it would never be durable
  if (request.flags & PCACHE_REQ_PREFLUSH && !progress->flushed_before) {
    if (!hazard(Hazard::kPreflushForgotten))
      if (const int result = flush(cache)) return result;
    progress->flushed_before = true;
    if (hazard(Hazard::kPreflushDropsData)) return 0;
  }
  if (request.op != PCACHE_OP_WRITE) {
    if (const int result = write_some_zeros(cache.parts(), head, request, progress)) return result;
  } else if (const uint64_t done = progress->done_bytes; done < request.len) {
    auto* from = static_cast<const std::byte*>(request.buf) + done;
    const Extent todo{request.off + done, request.len - done};
    if (std::exchange(progress->try_whole, false) &&
        write_extent(cache.parts(), head, todo.off, todo.len, from))
      progress->done_bytes = request.len;
    else if (const int result =
                 write_extents(cache.parts(), head, todo, from, &progress->done_bytes))
      return result;
  }
  if (hazard(Hazard::kFuaForgotten)) return 0;
  if (!(request.flags & PCACHE_REQ_FUA)) return 0;
  // What the device has is durable: a flush here would only end an epoch, and so a batch.
  return to_device ? -cache.take_lost() : flush(cache);
}

// The same; -EINPROGRESS: all of it is in the cache, and DeviceAcks is to acknowledge it.
int run(RequestState& cache, DataHead& head, const pcache_request& request,
        WriteProgress* progress) {
  DeviceAcks::Entry entry(cache.acks(), progress);
  const int result = write_into_cache(cache, head, request, entry.waits(), progress);
  if (result != 0 || !entry.waits()) return result;
  entry.to_be_added();
  return -EINPROGRESS;
}

// With a barrier, timed, in its turn behind others, or of several extents. noinline: what it needs
// of the stack is not needed by most writes.
[[gnu::noinline]] int submit_any_write(QueueState& queue, pcache_request* request, bool try_whole) {
  WriteProgress progress;
  progress.try_whole = try_whole;
  const bool fua = request->flags & PCACHE_REQ_FUA;
  const uint64_t since_ns = is_timed(queue.counters.writes) ? now_ns() : 0;
  queue.cache.parts().retention.wrote(request->off, request->len);
  progress.to_device = queue.cache.acks().promises();
  progress.admitted =
      !queue.cache.deferred().is_behind_zeros(*request) && queue.cache.admit(request->len);
  const int result =
      progress.admitted ? run(queue.cache, queue.head, *request, &progress) : -ENOSPC;
  queue.counters.writes.add_alone();
  queue.counters.write_bytes.add_alone(request->len);
  if (fua) queue.counters.fua.add_alone();
  if (result == -ENOSPC) return queue.cache.deferred().add(queue, request, progress);
  if (result == -EINPROGRESS) return queue.cache.acks().add(queue, request, progress);
  return queue.complete_at_once(request, result,
                                fua ? LatencyClass::kWriteFua : LatencyClass::kWrite, since_ns);
}

void count_zeros(QueueCounters& counters, const pcache_request& request) {
  const bool discard = request.op == PCACHE_OP_DISCARD;
  (discard ? counters.discards : counters.zeroes).add_alone();
  (discard ? counters.discard_bytes : counters.zeroes_bytes).add_alone(request.len);
}

}  // namespace

int submit_write(QueueState& queue, pcache_request* request) {
  bool try_whole = true;
  if (request->flags == 0 && queue.cache.admits_at_once() && !is_timed(queue.counters.writes))
      [[likely]] {
    if (write_extent(queue.cache.parts(), queue.head, request->off, request->len, request->buf))
        [[likely]] {
      queue.cache.parts().retention.wrote(request->off, request->len);
      queue.counters.writes.add_alone();
      queue.counters.write_bytes.add_alone(request->len);
      return 1;
    }
    try_whole = false;
  }
  return submit_any_write(queue, request, try_whole);
}

int submit_zeros(QueueState& queue, pcache_request* request) {
  WriteProgress progress;
  const uint64_t since_ns = now_ns();
  progress.to_device = queue.cache.acks().promises();
  progress.admitted = queue.cache.admit(credit_bytes(*request));
  const bool in_turn = progress.admitted && !queue.cache.deferred().zeros_wait();
  const int result = in_turn ? run(queue.cache, queue.head, *request, &progress) : -ENOSPC;
  count_zeros(queue.counters, *request);
  if (result == -EINPROGRESS) return queue.cache.acks().add(queue, request, progress);
  if (result == -ENOSPC || result == -EBUSY || result == -EAGAIN)
    return queue.cache.deferred().add(queue, request, progress);
  if (result) queue.cache.deferred().wake();  // it has given back what it had taken of the backlog
  return queue.complete_at_once(request, result, LatencyClass::kZeros, since_ns);
}

int resume_write(PendingRequest& pending) {
  return run(pending.queue->cache, pending.queue->head, *pending.request, &pending.write);
}

}  // namespace pcache
