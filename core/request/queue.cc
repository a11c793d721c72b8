// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/queue.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <new>
#include <utility>

#include "blockdev/deadline.h"
#include "request/ahead.h"
#include "request/op_read.h"

namespace pcache {

Result<std::unique_ptr<Queue>> Queue::create(RequestState& cache, QueueSet& set, uint32_t depth) {
  auto device = cache.parts().backing.open_queue(depth);
  if (!device) return device.error();
  UniqueFd wake_fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake_fd.valid()) return error_errno(errno, "queue: no eventfd");
  std::unique_ptr<Queue> queue(new Queue(cache, set, depth, device.take(), std::move(wake_fd)));
  if (auto added = set.add(&queue->state_); !added) return added.error();
  return queue;
}

Queue::Queue(RequestState& cache, QueueSet& set, uint32_t depth, std::unique_ptr<BlockQueue> device,
             UniqueFd wake_fd)
    : state_(cache, depth, fills_for(depth), std::move(device), std::move(wake_fd)), set_(set) {}

Queue::~Queue() {
  cancel();
  state_.cache.acks().cancel(state_);  // behind that: what no longer waits for space may be there
  cancel_parked_reads(state_);
  pcache_request* done[16];
  while (in_flight() > 0) reap(done, 1, 16, -1);
  while (state_.ahead.under_way()) state_.device->wait(-1);
  PCACHE_CHECK(state_.parked_reads.empty() && state_.in_flight.waiting_elsewhere() == 0);
  set_.remove(&state_);
}

// Where a request may be: 0, -EINVAL or -ENXIO.
inline int Queue::check_range(const pcache_request& request, const Parts& parts, uint64_t end) {
  if (request.len == 0) return -EINVAL;
  if (((request.off | request.len) & (parts.block_bytes - 1)) != 0) return -EINVAL;
  if (request.off > end || request.len > end - request.off) return -ENXIO;
  return 0;
}

inline int Queue::check(const pcache_request& request) const {
  // First: behind an acquire the compiler would read the request a second time.
  const RequestState& cache = state_.cache;
  const uint64_t end = cache.logical_bytes();
  if (request.op >= kOpCount) return -EINVAL;
  // A flag of a later version must not be ignored: it may promise something.
  if (request.flags & ~(PCACHE_REQ_FUA | PCACHE_REQ_PREFLUSH)) return -EINVAL;
  const Op& op = state_.ops[request.op];
  if (op.has_buffer && request.buf == nullptr) return -EINVAL;
  return op.has_range ? check_range(request, cache.parts(), end) : 0;
}

int Queue::submit(pcache_request* request) {
  request->result = check(*request);
  if (request->result) [[unlikely]] {
    state_.counters.errors.add_alone();
    return 1;
  }
  const Op& op = state_.ops[request->op];
  if (state_.in_flight.full() && op.needs_slot) [[unlikely]]
    return -EAGAIN;
  return op.submit(state_, request);
}

int Queue::submit_batch(std::span<pcache_request* const> requests, pcache_request** done,
                        uint32_t* done_count) {
  const Ahead ahead(state_.cache);
  const size_t count = requests.size();
  *done_count = 0;
  for (size_t i = 0; i < count + Ahead::kShard; i++) {
    const size_t turn =
        i - Ahead::kShard;  // of the request that is submitted; wraps round at first
    if (i < count) ahead.shard(*requests[i]);
    if (const size_t next = turn + Ahead::kSlot; next < count) ahead.slot(*requests[next]);
    if (const size_t next = turn + Ahead::kData; next < count) ahead.data(*requests[next]);
    if (turn >= count) continue;
    pcache_request* const request = requests[turn];
    int taken = 1;
    try {
      taken = submit(request);
    } catch (const std::bad_alloc&) {
      request->result = -ENOMEM;
    }
    if (taken < 0) return turn > 0 ? static_cast<int>(turn) : taken;
    if (taken == 1) done[(*done_count)++] = request;
  }
  return static_cast<int>(count);
}

uint32_t Queue::take_done(pcache_request** done, uint32_t max) {
  PCACHE_DCHECK(max == 0 || done != nullptr);
  PendingList taken = state_.completions.take(max);
  uint32_t n = 0;
  while (PendingRequest* const pending = taken.pop_front()) {
    pcache_request* const request = pending->request;
    PCACHE_DCHECK(pending->op->resume != nullptr || pending->parts_to_come.load() == 0);
    request->result = -pending->error.load(std::memory_order_relaxed);
    if (request->result) state_.counters.errors.add_alone();
    state_.counters.note_latency(pending->latency, pending->since_ns);
    state_.in_flight.give_back(pending);
    done[n++] = request;
  }
  return n;
}

int Queue::reap(pcache_request** done, uint32_t min, uint32_t max, int64_t timeout_ns) {
  const Deadline deadline(timeout_ns);
  resume_reads();
  uint32_t n = take_done(done, max);
  const bool has_more = in_flight() > 0 || state_.ahead.under_way();
  if (n < max && (has_more || state_.all_rings_fd >= 0)) {
    poll_rings();
    resume_reads();
    n += take_done(done + n, max - n);
  }
  while (n < min && n < max && in_flight() > 0) {
    const int64_t left = timeout_ns < 0 ? -1 : deadline.left_ns(INT64_MAX);
    wait(left);
    resume_reads();
    n += take_done(done + n, max - n);
    if (left == 0) break;
  }
  PCACHE_CHECK(n <= max);
  state_.settle_ready_fd();
  return static_cast<int>(n);
}

void Queue::resume_reads() {
  if (!state_.parked_reads.empty()) resume_parked_reads(state_);
}

// Who waits on the descriptor never comes to wait_for_wake(), so it is here that it helps others.
// Its own ring is polled with nothing in flight, too: a wake that came late makes it readable.
void Queue::poll_rings() {
  if (state_.all_rings_fd >= 0 && state_.in_flight.joined() > 0)
    set_.poll_all();
  else
    state_.device->poll();
}

Result<int> Queue::ready_fd() {
  auto fd = state_.completions.ready_fd(state_.device->fd());
  if (fd && state_.all_rings_fd < 0) {
    state_.all_rings_fd = set_.fd();
    state_.settle_ready_fd();
  }
  return fd;
}

void Queue::wait(int64_t timeout_ns) {
  if (state_.in_flight.joined() > 0 || state_.in_flight.waiting_elsewhere() > 0)
    wait_for_wake(timeout_ns);
  else
    state_.device->wait(timeout_ns);
}

// Another thread completes a request of ours: the one that makes space, for a write; for a read
// that joined another queue's fill whoever polls that queue's ring, and that may as well be us.
void Queue::wait_for_wake(int64_t timeout_ns) {
  const bool joined = state_.in_flight.joined() > 0;
  pollfd fds[] = {{state_.completions.wake_fd(), POLLIN, 0},
                  {joined ? set_.fd() : state_.device->fd(), POLLIN, 0}};
  if (!state_.completions.begin_wait(!state_.parked_reads.empty())) return;
  // The fill that it waits for may be one that the kernel had no memory to take, and whose queue's
  // thread does something else: then only poll_all() gives it to the kernel.
  constexpr int64_t kMostJoinedNs = 100'000'000;
  if (joined && (timeout_ns < 0 || timeout_ns > kMostJoinedNs)) timeout_ns = kMostJoinedNs;
  const timespec timeout{timeout_ns / 1000000000, timeout_ns % 1000000000};
  ppoll(fds, std::size(fds), timeout_ns < 0 ? nullptr : &timeout, nullptr);
  state_.completions.end_wait();
  if (joined)
    set_.poll_all();
  else
    state_.device->poll();
}

uint32_t Queue::parked() const {
  uint32_t n = 0;
  for (const PendingRequest* read = state_.parked_reads.front(); read != nullptr; read = read->next)
    n++;
  return n;
}

}  // namespace pcache
