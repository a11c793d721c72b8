// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/nbd_queue.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include <algorithm>
#include <utility>

#include "blockdev/deadline.h"

namespace pcache {

namespace {

constexpr int64_t kLongestSleepNs = 1'000'000'000;  // of one sleep; then the loop sleeps again

// Some milliseconds each. No system call.
int64_t coarse_ticks() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

bool watch(int epoll, int fd) {
  epoll_event event = {EPOLLIN, {.fd = fd}};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

Result<std::unique_ptr<NbdQueue>> NbdQueue::open(NbdServer& server,
                                                 std::shared_ptr<NbdConnection> connection,
                                                 unsigned depth) {
  UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!event.valid() || !epoll.valid() || !watch(epoll.get(), event.get()) ||
      !watch(epoll.get(), connection->fd()))
    return error_errno(errno, "cannot wait for backing device %s", server.name().c_str());
  return std::unique_ptr<NbdQueue>(new NbdQueue(server, std::move(connection), std::max(depth, 1u),
                                                std::move(event), std::move(epoll)));
}

NbdQueue::NbdQueue(NbdServer& server, std::shared_ptr<NbdConnection> connection, unsigned depth,
                   UniqueFd event, UniqueFd epoll)
    : server_(server),
      owned_(std::move(connection)),
      connection_(*owned_),
      depth_(depth),
      event_(std::move(event)),
      epoll_(std::move(epoll)),
      losses_told_(server.losses()) {}

NbdQueue::~NbdQueue() {
  MutexLock lock(connection_.mu);  // waits for the end of another thread's last poll()
  PCACHE_CHECK(in_flight_.load() == 0);
  PCACHE_CHECK(running_ == 0 && backlog_.empty() && finished_.empty());
}

void NbdQueue::submit(BlockIo* io) {
  const NbdExport& device = server_.device();
  PCACHE_CHECK(io->op == BlockOp::kFlush ||
               (io->off <= device.size_bytes && io->len <= device.size_bytes - io->off));
  PCACHE_CHECK(prepare_io(io, this, {device.block_bytes, 1}, bounce_));
  MutexLock lock(connection_.mu);
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  backlog_.push(io);
  start_more();
}

void NbdQueue::start_more() {
  while (running_ < depth_ && !backlog_.empty()) {
    running_++;
    connection_.start(backlog_.pop());
  }
}

// By the connection, with its mutex.
void NbdQueue::on_finished(BlockIo* io) NO_THREAD_SAFETY_ANALYSIS {
  static_cast<NbdQueue*>(io->queue)->add_finished(io);
}

void NbdQueue::add_finished(BlockIo* io) {
  PCACHE_DCHECK(running_ > 0);
  running_--;
  if (io->op == BlockOp::kFlush && io->result == 0 && losses_told_ != server_.losses()) {
    losses_told_ = server_.losses();
    io->result = kWritesLost;
  }
  finished_.push(io);
  if (!pumping_) signal();
}

void NbdQueue::signal() {
  if (std::exchange(signalled_, true)) return;
  const uint64_t one = 1;
  PCACHE_CHECK(write(event_.get(), &one, sizeof one) == sizeof one);
}

// Pumps, too.
BlockIoList NbdQueue::take_finished() {
  pumping_ = true;
  connection_.pump();
  start_more();
  pumping_ = false;
  if (std::exchange(signalled_, false)) {
    uint64_t count = 0;
    PCACHE_CHECK(read(event_.get(), &count, sizeof count) == sizeof count);
  }
  return std::exchange(finished_, BlockIoList());
}

unsigned NbdQueue::report(BlockIoList finished) {
  if (finished.empty()) return 0;
  const unsigned count = report_finished(finished, bounce_);
  MutexLock lock(connection_.mu);
  PCACHE_DCHECK(count <= in_flight());
  in_flight_.fetch_sub(count, std::memory_order_relaxed);
  reported_ += count;
  if (waiting_) signal();
  return count;
}

// With nothing in flight only a connection that ends has made fd() readable, and whoever reaps hits
// need not ask the kernel each time.
unsigned NbdQueue::poll() {
  if (in_flight() == 0) {
    const int64_t now = coarse_ticks();
    if (idle_look_ticks_.exchange(now, std::memory_order_relaxed) == now) return 0;
  }
  BlockIoList finished;
  {
    MutexLock lock(connection_.mu);
    finished = take_finished();
  }
  return report(finished);
}

unsigned NbdQueue::wait(int64_t timeout_ns) {
  const Deadline deadline(timeout_ns);
  BlockIoList finished;
  uint64_t reported_before = 0;
  bool first = true;
  for (;;) {
    int64_t left_ns = 0;
    {
      MutexLock lock(connection_.mu);
      if (first) {
        PCACHE_CHECK(!waiting_);
        reported_before = reported_;
        first = false;
      }
      finished = take_finished();
      left_ns = deadline.left_ns(kLongestSleepNs);
      waiting_ = finished.empty() && reported_ == reported_before && left_ns > 0 && in_flight() > 0;
      if (!waiting_) break;
    }
    pollfd ready = {epoll_.get(), POLLIN, 0};
    const timespec time = {left_ns / 1'000'000'000, left_ns % 1'000'000'000};
    ppoll(&ready, 1, &time, nullptr);
  }
  return report(finished);
}

}  // namespace pcache
