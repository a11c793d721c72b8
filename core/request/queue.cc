// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/queue.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "blockdev/deadline.h"
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

Status QueueSet::add(Queue* queue) {
  MutexLock lock(mu_);
  if (!epoll_.valid()) epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return error_errno(errno, "queue: no epoll instance");
  queues_.push_back(queue);
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, queue->device().fd(), &event) == 0) return {};
  const int error = errno;
  queues_.pop_back();
  return error_errno(error, "queue: its ring cannot be watched");
}

void QueueSet::remove(Queue* queue, const QueueCounters& counters) {
  MutexLock lock(mu_);
  if (std::erase(queues_, queue) > 0)
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, queue->device().fd(), nullptr);
  for (const auto& counter : kQueueCounters)
    (gone_.*counter.member).add((counters.*counter.member).load());
  for (size_t i = 0; i < kLatencyClasses; i++) gone_.latency[i].merge(counters.latency[i]);
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
  UniqueFd wake_fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake_fd.valid()) return error_errno(errno, "queue: no eventfd");
  std::unique_ptr<Queue> queue(new Queue(ctx, set, head, depth, device.take(), std::move(wake_fd)));
  if (auto added = set.add(queue.get()); !added) return added.error();
  return queue;
}

Queue::Queue(RequestContext& ctx, QueueSet& set, DataHead& head, uint32_t depth,
             std::unique_ptr<BlockQueue> device, UniqueFd wake_fd)
    : ctx_(ctx),
      set_(set),
      head_(head),
      depth_(depth),
      device_(std::move(device)),
      wake_fd_(std::move(wake_fd)),
      read_path_(ctx, *this),
      all_pending_(std::make_unique<PendingRequest[]>(depth)),
      all_fills_(std::make_unique<Fill[]>(fills_for(depth))) {
  for (uint32_t i = depth; i-- > 0;) {
    all_pending_[i].queue = this;
    return_pending(&all_pending_[i]);
  }
  for (uint32_t i = fills_for(depth); i-- > 0;) return_fill(&all_fills_[i]);
}

Queue::~Queue() {
  cancel();
  cancel_parked();
  pcache_request* done[16];
  while (in_flight_ > 0) reap(done, 1, 16, -1);
  set_.remove(this, counters_);
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
    return not_taken();
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
  if (in_flight_ >= depth_ && (!is_flush || depth_ == 0)) return not_taken();
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
  if (parked_ != nullptr) go_on_reading();  // it comes before
  ReadProgress at{{request->off, request->len}, static_cast<std::byte*>(request->buf)};
  PendingRequest* read = nullptr;
  const auto [walk, error] = read_path_.walk(request, &at, &read);
  if (read == nullptr) {
    (error ? counters_.errors : counters_.read_hits).add_alone();
    if (since_ns && !error) note_latency(LatencyClass::kReadHit, since_ns);
    request->result = -error;
    return 1;
  }
  read->read = at;
  in_flight_++;
  device_->kick();
  if (walk == ReadPath::Walked::kParked)
    park(read);
  else
    walked(read, error);
  if (has_ready_fd_) settle_ready_fd();
  return 0;
}

void Queue::walked(PendingRequest* read, int error) {
  (read->read.fetched_bytes == read->request->len ? counters_.read_misses : counters_.read_partial)
      .add_alone();
  finish_part(read, error);  // the part that stood for what was not looked at
}

void Queue::park(PendingRequest* read) {
  read->next = nullptr;
  (parked_ ? last_parked_->next : parked_) = read;
  last_parked_ = read;
  parked_count_++;
}

void Queue::go_on_reading() {
  while (PendingRequest* read = parked_) {
    const auto [walk, error] = read_path_.walk(read->request, &read->read, &read);
    if (walk == ReadPath::Walked::kParked) break;
    parked_ = read->next;
    parked_count_--;
    walked(read, error);
  }
  device_->kick();
  if (has_ready_fd_) settle_ready_fd();
}

void Queue::cancel_parked() {
  while (PendingRequest* const read = parked_) {
    parked_ = read->next;
    parked_count_--;
    walked(read, ECANCELED);
  }
}

PendingRequest* Queue::lend_pending(pcache_request* request) {
  PendingRequest* const read = free_pending_;
  PCACHE_CHECK(read != nullptr);
  free_pending_ = read->next;
  read->request = request;
  read->joined = false;
  read->waits_for_space = false;
  read->since_ns = static_cast<uint64_t>(now_ns());
  read->error.store(0, std::memory_order_relaxed);
  read->parts.store(1, std::memory_order_relaxed);
  return read;
}

void Queue::return_pending(PendingRequest* request) {
  request->next = free_pending_;
  free_pending_ = request;
}

Fill* Queue::lend_fill() {
  MutexLock lock(done_mu_);
  Fill* const fill = free_fills_;
  if (fill != nullptr) free_fills_ = fill->next;
  return fill;
}

void Queue::return_fill(Fill* fill) {
  MutexLock lock(done_mu_);
  fill->next = free_fills_;
  free_fills_ = fill;
  if (std::exchange(wants_fill_, false)) wake();
}

uint32_t Queue::free_fills() {
  MutexLock lock(done_mu_);
  uint32_t n = 0;
  for (const Fill* fill = free_fills_; fill != nullptr; fill = fill->next) n++;
  return n;
}

void Queue::note_joined(PendingRequest* read) {
  if (!std::exchange(read->joined, true)) joined_++;
}

void Queue::wake() {
  if (ready_) ready_->raise();
  if (!std::exchange(waiting_, false)) return;
  const uint64_t one = 1;
  PCACHE_CHECK(write(wake_fd_.get(), &one, sizeof one) == sizeof one);
}

void Queue::complete(PendingRequest* request) {
  MutexLock lock(done_mu_);
  request->next = nullptr;
  (done_ ? last_done_->next : done_) = request;
  last_done_ = request;
  wake();
}

uint32_t Queue::take_done(pcache_request** done, uint32_t max) {
  MutexLock lock(done_mu_);
  uint32_t n = 0;
  while (n < max && done_ != nullptr) {
    PendingRequest* const read = done_;
    done_ = read->next;
    read->request->result = -read->error.load(std::memory_order_relaxed);
    if (read->request->result) counters_.errors.add_alone();
    if (read->joined) joined_--;
    if (read->waits_for_space) waiting_for_space_--;
    note_latency(class_of(*read), read->since_ns);
    done[n++] = read->request;
    return_pending(read);
    in_flight_--;
  }
  return n;
}

int Queue::reap(pcache_request** done, uint32_t min, uint32_t max, int64_t timeout_ns) {
  const Deadline deadline(timeout_ns);
  if (parked_ != nullptr) go_on_reading();
  uint32_t n = take_done(done, max);
  if (n < max && (in_flight_ > 0 || has_ready_fd_)) {
    poll_rings();
    if (parked_ != nullptr) go_on_reading();
    n += take_done(done + n, max - n);
  }
  while (n < min && n < max && in_flight_ > 0) {
    const int64_t left = timeout_ns < 0 ? -1 : deadline.left_ns(INT64_MAX);
    wait(left);
    if (parked_ != nullptr) go_on_reading();
    n += take_done(done + n, max - n);
    if (left == 0) break;
  }
  if (has_ready_fd_) settle_ready_fd();
  return static_cast<int>(n);
}

// Who waits on the descriptor never comes to wait_for_wake(), so it is here that it helps others.
// Its own ring is polled with nothing in flight, too: a wake that came late makes it readable.
void Queue::poll_rings() {
  if (has_ready_fd_ && joined_ > 0)
    set_.poll_all();
  else
    device_->poll();
}

Result<int> Queue::ready_fd() {
  {
    MutexLock lock(done_mu_);
    if (ready_) return ready_->fd();
  }
  auto made = ReadyFd::create(device_->fd());
  if (!made) return made.error();
  const int fd = made.value()->fd();
  {
    MutexLock lock(done_mu_);
    ready_ = made.take();
  }
  has_ready_fd_ = true;
  settle_ready_fd();
  return fd;
}

// Readable also while nothing else would bring the event loop back: what the kernel has not taken
// for want of memory is pushed by reap(), and rings that cannot be watched are polled by it.
void Queue::settle_ready_fd() {
  const bool pushed = device_->kick();
  MutexLock lock(done_mu_);
  const bool watched = ready_->watch_all(set_.fd(), joined_ > 0);
  wants_fill_ = parked_ != nullptr;
  if (done_ != nullptr || (parked_ != nullptr && free_fills_ != nullptr) || !pushed || !watched)
    ready_->raise();
  else
    ready_->lower();
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
  pollfd fds[] = {{wake_fd_.get(), POLLIN, 0},
                  {joined_ > 0 ? set_.fd() : device_->fd(), POLLIN, 0}};
  {
    MutexLock lock(done_mu_);
    if (done_ != nullptr || (parked_ != nullptr && free_fills_ != nullptr)) return;
    waiting_ = true;
    wants_fill_ = parked_ != nullptr;
  }
  const timespec timeout{timeout_ns / 1000000000, timeout_ns % 1000000000};
  ppoll(fds, std::size(fds), timeout_ns < 0 ? nullptr : &timeout, nullptr);
  {
    MutexLock lock(done_mu_);
    waiting_ = false;
  }
  uint64_t woken;
  while (read(wake_fd_.get(), &woken, sizeof woken) > 0) {
  }
  if (joined_ > 0)
    set_.poll_all();
  else
    device_->poll();
}

}  // namespace pcache
