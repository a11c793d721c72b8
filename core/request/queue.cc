// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/queue.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "request/fill.h"
#include "request/write_one.h"
#include "request/write_path.h"

namespace pcache {

namespace {

int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

uint64_t now_if(bool timed) { return timed ? static_cast<uint64_t>(now_ns()) : 0; }

LatencyClass class_of(const PendingRequest& pending) {
  if (pending.request->op == PCACHE_OP_READ) return LatencyClass::kReadMiss;
  return pending.request->op == PCACHE_OP_FLUSH ? LatencyClass::kFlush : LatencyClass::kWriteWaited;
}

}  // namespace

void QueueSet::add(Queue* queue) {
  MutexLock lock(mu_);
  queues_.push_back(queue);
}

void QueueSet::remove(Queue* queue, const QueueCounters& counters) {
  MutexLock lock(mu_);
  std::erase(queues_, queue);
  constexpr Counter QueueCounters::*kAll[] = {
      &QueueCounters::writes,      &QueueCounters::write_bytes, &QueueCounters::reads,
      &QueueCounters::read_bytes,  &QueueCounters::read_hits,   &QueueCounters::read_partial,
      &QueueCounters::read_misses, &QueueCounters::flushes,     &QueueCounters::fua,
      &QueueCounters::errors};
  for (auto member : kAll) (gone_.*member).add((counters.*member).load());
  for (size_t i = 0; i < kLatencyClasses; i++) gone_.latency[i].merge(counters.latency[i]);
}

std::vector<int> QueueSet::fds() {
  MutexLock lock(mu_);
  std::vector<int> fds;
  for (Queue* queue : queues_) fds.push_back(queue->device().fd());
  return fds;
}

void QueueSet::poll_all() {
  MutexLock lock(mu_);
  for (Queue* queue : queues_) queue->device().poll();
}

size_t QueueSet::size() {
  MutexLock lock(mu_);
  return queues_.size();
}

Result<std::unique_ptr<Queue>> Queue::create(RequestContext& ctx, QueueSet& set, DataHead& head,
                                             uint32_t depth) {
  auto device = ctx.backing.open_queue(depth);
  if (!device) return device.error();
  const int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd < 0) return error_errno(errno, "queue: no eventfd");
  std::unique_ptr<Queue> queue(new Queue(ctx, set, head, depth, device.take(), wake_fd));
  set.add(queue.get());
  return queue;
}

Queue::Queue(RequestContext& ctx, QueueSet& set, DataHead& head, uint32_t depth,
             std::unique_ptr<BlockQueue> device, int wake_fd)
    : ctx_(ctx),
      set_(set),
      head_(head),
      depth_(depth),
      device_(std::move(device)),
      wake_fd_(wake_fd),
      read_path_(ctx, *this) {
  for (uint32_t i = 0; i < depth; i++) {
    all_pending_.push_back(std::make_unique<PendingRequest>());
    all_pending_.back()->queue = this;
    free_pending_.push_back(all_pending_.back().get());
  }
}

Queue::~Queue() {
  cancel();
  pcache_request* done[16];
  while (in_flight_ > 0) reap(done, 1, 16, -1);
  set_.remove(this, counters_);
  close(wake_fd_);
}

// Where a read or write may be: 0, -EINVAL or -ENXIO.
inline int Queue::check_range(const pcache_request& request) const {
  if (request.buf == nullptr || request.len == 0) return -EINVAL;
  if (((request.off | request.len) & (ctx_.block_bytes - 1)) != 0) return -EINVAL;
  if (request.off > ctx_.logical_bytes || request.len > ctx_.logical_bytes - request.off)
    return -ENXIO;
  return 0;
}

int Queue::check(const pcache_request& request) const {
  if (request.op > PCACHE_OP_FLUSH) return -EINVAL;
  // A flag of a later version must not be ignored: it may promise something.
  if (request.flags & ~(PCACHE_REQ_FUA | PCACHE_REQ_PREFLUSH)) return -EINVAL;
  return request.op == PCACHE_OP_FLUSH ? 0 : check_range(request);
}

// What most writes are: done at once, with nothing before and nothing behind it, and not timed.
int Queue::start_plain_write(pcache_request* request) {
  if (in_flight_ < depth_ && ctx_.deferred.empty() && !ctx_.pace.on() &&
      !sampled(counters_.writes) &&
      write_one(ctx_, head_, request->off, request->len, request->buf)) [[likely]] {
    counters_.writes.add_alone();
    counters_.write_bytes.add_alone(request->len);
    return 1;
  }
  return start_write(request);
}

// What most reads are, likewise.
int Queue::start_read(pcache_request* request) {
  if (in_flight_ >= depth_) [[unlikely]]
    return -EAGAIN;
  if (sampled(counters_.reads) ||
      !read_path_.copy_page_hit(request->off, request->len, request->buf)) [[unlikely]]
    return start_any_read(request);
  counters_.reads.add_alone();
  counters_.read_bytes.add_alone(request->len);
  counters_.read_hits.add_alone();
  return 1;
}

int Queue::submit(pcache_request* request) {
  const bool plain = request->flags == 0 && request->op < PCACHE_OP_FLUSH;
  request->result = plain ? check_range(*request) : check(*request);
  if (request->result) [[unlikely]] {
    counters_.errors.add_alone();
    return 1;
  }
  if (request->op == PCACHE_OP_READ) return start_read(request);
  return plain ? start_plain_write(request) : start_write(request);
}

int Queue::start_write(pcache_request* request) {
  const bool is_flush = request->op == PCACHE_OP_FLUSH;
  // A plain one comes here, too: no data head has a place.
  if (ctx_.readonly) {
    request->result = is_flush ? 0 : -EROFS;
    (is_flush ? counters_.flushes : counters_.errors).add_alone();
    return 1;
  }
  const bool fua = !is_flush && request->flags & PCACHE_REQ_FUA;
  // First of all: a write that is refused has changed nothing.
  if (!is_flush && in_flight_ >= depth_) return -EAGAIN;
  const uint64_t since_ns = now_if(sampled(is_flush ? counters_.flushes : counters_.writes));
  WriteProgress progress;
  int result = -ENOSPC;
  // A write waits its turn; a flush covers what is complete already, and waits for nobody.
  progress.admitted = is_flush || (ctx_.deferred.empty() && ctx_.pace.take(request->len));
  if (progress.admitted) result = write_request(ctx_, head_, *request, &progress);
  const bool waits = result == -ENOSPC;
  if (waits && in_flight_ >= depth_) return -EAGAIN;  // a flush: it can be done again
  (is_flush ? counters_.flushes : counters_.writes).add_alone();
  if (!is_flush) counters_.write_bytes.add_alone(request->len);
  if (fua) counters_.fua.add_alone();
  if (waits) {
    PendingRequest* pending = lend_pending(request);
    pending->waits_for_space = true;
    pending->progress = progress;
    in_flight_++;
    waiting_for_space_++;
    ctx_.counters.waits.add();
    ctx_.deferred.push(pending);
    return 0;
  }
  if (result) counters_.errors.add_alone();
  if (since_ns && result == 0)
    note_latency(is_flush ? LatencyClass::kFlush
                 : fua    ? LatencyClass::kWriteFua
                          : LatencyClass::kWrite,
                 since_ns);
  request->result = result;
  return 1;
}

void Queue::note_latency(LatencyClass what, uint64_t since_ns) {
  counters_.latency[static_cast<size_t>(what)].add(static_cast<uint64_t>(now_ns()) - since_ns);
}

int Queue::start_any_read(pcache_request* request) {
  const uint64_t since_ns = now_if(sampled(counters_.reads));
  counters_.reads.add_alone();
  counters_.read_bytes.add_alone(request->len);
  if (since_ns != 0 && read_path_.copy_page_hit(request->off, request->len, request->buf)) {
    counters_.read_hits.add_alone();
    note_latency(LatencyClass::kReadHit, since_ns);
    return 1;
  }
  const auto started = read_path_.start(request);
  if (!started.pending) {
    (started.error ? counters_.errors : counters_.read_hits).add_alone();
    if (since_ns && !started.error) note_latency(LatencyClass::kReadHit, since_ns);
    request->result = -started.error;
    return 1;
  }
  (started.fetched_bytes == request->len ? counters_.read_misses : counters_.read_partial)
      .add_alone();
  in_flight_++;
  if (started.pending->joined) joined_++;
  device_->kick();
  finish_part(started.pending, started.error);  // the part that stood for the submission
  return 0;
}

PendingRequest* Queue::lend_pending(pcache_request* request) {
  PCACHE_CHECK(!free_pending_.empty());
  PendingRequest* read = free_pending_.back();
  free_pending_.pop_back();
  read->request = request;
  read->joined = false;
  read->waits_for_space = false;
  read->since_ns = static_cast<uint64_t>(now_ns());
  read->error.store(0, std::memory_order_relaxed);
  read->parts.store(1, std::memory_order_relaxed);
  return read;
}

Fill* Queue::lend_fill() {
  MutexLock lock(done_mu_);
  if (free_fills_.empty()) {
    all_fills_.push_back(std::make_unique<Fill>());
    return all_fills_.back().get();
  }
  Fill* fill = free_fills_.back();
  free_fills_.pop_back();
  return fill;
}

void Queue::return_fill(Fill* fill) {
  MutexLock lock(done_mu_);
  free_fills_.push_back(fill);
}

void Queue::complete(PendingRequest* read) {
  MutexLock lock(done_mu_);
  done_.push_back(read);
  if (waiting_) {
    waiting_ = false;
    const uint64_t one = 1;
    PCACHE_CHECK(write(wake_fd_, &one, sizeof one) == sizeof one);
  }
}

uint32_t Queue::take_done(pcache_request** done, uint32_t max) {
  MutexLock lock(done_mu_);
  uint32_t n = 0;
  while (n < max && !done_.empty()) {
    PendingRequest* read = done_.front();
    done_.pop_front();
    read->request->result = -read->error.load(std::memory_order_relaxed);
    if (read->request->result) counters_.errors.add_alone();
    if (read->joined) joined_--;
    if (read->waits_for_space) waiting_for_space_--;
    note_latency(class_of(*read), read->since_ns);
    done[n++] = read->request;
    free_pending_.push_back(read);
    in_flight_--;
  }
  return n;
}

int Queue::reap(pcache_request** done, uint32_t min, uint32_t max, int64_t timeout_ns) {
  const int64_t deadline = timeout_ns < 0 ? -1 : now_ns() + timeout_ns;
  uint32_t n = take_done(done, max);
  if (n < max && in_flight_ > 0) {
    device_->poll();
    n += take_done(done + n, max - n);
  }
  while (n < min && n < max && in_flight_ > 0) {
    const int64_t left = deadline < 0 ? -1 : std::max<int64_t>(deadline - now_ns(), 0);
    wait(left);
    n += take_done(done + n, max - n);
    if (left == 0) break;
  }
  return static_cast<int>(n);
}

void Queue::wait(int64_t timeout_ns) {
  if (joined_ > 0 || waiting_for_space_ > 0)
    wait_for_wake(timeout_ns);
  else
    device_->wait(timeout_ns);
}

// Another thread completes a request of ours: the one that makes space, for a write; for a read
// that joined another queue's fill whoever polls that queue's ring, and that may as well be us.
void Queue::wait_for_wake(int64_t timeout_ns) {
  std::vector<pollfd> fds;
  fds.push_back({wake_fd_, POLLIN, 0});
  if (joined_ > 0)
    for (const int fd : set_.fds()) fds.push_back({fd, POLLIN, 0});
  else
    fds.push_back({device_->fd(), POLLIN, 0});
  {
    MutexLock lock(done_mu_);
    if (!done_.empty()) return;
    waiting_ = true;
  }
  const timespec timeout{timeout_ns / 1000000000, timeout_ns % 1000000000};
  ppoll(fds.data(), fds.size(), timeout_ns < 0 ? nullptr : &timeout, nullptr);
  {
    MutexLock lock(done_mu_);
    waiting_ = false;
  }
  uint64_t woken;
  while (read(wake_fd_, &woken, sizeof woken) > 0) {
  }
  if (joined_ > 0)
    set_.poll_all();
  else
    device_->poll();
}

}  // namespace pcache
