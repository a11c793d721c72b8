// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/uring_queue.h"

#include <poll.h>

#include <algorithm>

#include "blockdev/deadline.h"

namespace pcache {

namespace {

constexpr unsigned kMaxDepth = 1u << 14;  // so that a ring, one larger, is never clamped below it
constexpr int64_t kShortOfMemoryNs = 1'000'000;

// The kernel has no memory for entries now; they stay in the ring.
bool short_of_memory(int rc) { return rc == -EAGAIN || rc == -ENOMEM || rc == -EBUSY; }

}  // namespace

Result<std::unique_ptr<UringQueue>> UringQueue::open(const BackingFile& file, unsigned depth,
                                                     UringInit init, int64_t longest_sleep_ns) {
  depth = std::clamp(depth, 1u, kMaxDepth);
  auto ring = make_ring(depth + 1, init);
  if (!ring) return ring.error();
  UringHandle handle = ring.take();
  PCACHE_CHECK(io_uring_sq_space_left(handle.get()) > depth);
  // The file is not registered with the ring, although that would save two reference counts for
  // each request: a ring is torn down some time after its process was killed. Until then a
  // registered file would stay open and locked, and a restart would find the device in use.
  return std::unique_ptr<UringQueue>(
      new UringQueue(file, depth, std::move(handle), longest_sleep_ns));
}

UringQueue::UringQueue(const BackingFile& file, unsigned depth, UringHandle ring,
                       int64_t longest_sleep_ns)
    : file_(file),
      depth_(depth),
      longest_sleep_ns_(longest_sleep_ns),
      ring_fd_(ring->ring_fd),
      ring_(std::move(ring)) {}

UringQueue::~UringQueue() {
  MutexLock lock(mu_);  // waits for the end of another thread's last poll()
  PCACHE_CHECK(in_flight_.load() == 0);
  PCACHE_CHECK(in_ring_ == 0 && backlog_.empty());
}

void UringQueue::submit(BlockIo* io) {
  PCACHE_CHECK(io->op == BlockOp::kFlush ||
               (io->off <= file_.size_bytes && io->len <= file_.size_bytes - io->off));
  prepare_io(io, this, file_.align, bounce_);  // a failure is in io->result, see start()
  MutexLock lock(mu_);
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  if (in_ring_ == depth_) {
    backlog_.push(io);
  } else {
    in_ring_++;
    start(io);
  }
}

io_uring_sqe* UringQueue::next_entry() {
  io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
  PCACHE_CHECK(sqe != nullptr);
  return sqe;
}

void UringQueue::start(BlockIo* io) {
  PCACHE_DCHECK(in_ring_ > 0 && in_ring_ <= depth_);
  io_uring_sqe* sqe = next_entry();
  const int fd = file_.fd.get();
  if (io->result != 0) {
    io_uring_prep_nop(sqe);  // failed already: comes back like all others, through fd() too
  } else if (io->op == BlockOp::kRead) {
    io_uring_prep_read(sqe, fd, transfer_buffer(io), transfer_len(io), transfer_off(io));
  } else if (io->op == BlockOp::kWrite) {
    io_uring_prep_write(sqe, fd, transfer_buffer(io), transfer_len(io), transfer_off(io));
  } else if (io->op == BlockOp::kFlush) {
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
  } else {
    io_uring_prep_fallocate(sqe, fd, zero_mode(io->op), io->off, io->len);
  }
  io_uring_sqe_set_data(sqe, io);
}

bool UringQueue::push() {
  while (io_uring_sq_ready(ring_.get()) > 0) {
    const int rc = io_uring_submit(ring_.get());
    if (rc == -EINTR) continue;
    if (rc == 0 || short_of_memory(rc)) return false;
    PCACHE_CHECK(rc > 0);
  }
  return true;
}

bool UringQueue::kick() {
  MutexLock lock(mu_);
  return push();
}

void UringQueue::post_wake() {
  PCACHE_DCHECK(!wake_posted_);  // the ring has room for one
  wake_posted_ = true;
  io_uring_sqe* sqe = next_entry();
  io_uring_prep_nop(sqe);
  io_uring_sqe_set_data(sqe, nullptr);
}

BlockIoList UringQueue::reap(Reaper reaper) {
  BlockIoList finished;
  unsigned head = 0, count = 0;
  bool wake_seen = false;
  io_uring_cqe* cqe = nullptr;
  io_uring_for_each_cqe(ring_.get(), head, cqe) {
    count++;
    auto* io = static_cast<BlockIo*>(io_uring_cqe_get_data(cqe));
    if (!io) {
      wake_seen = true;
    } else if (io->result == 0 && !account_transfer(io, cqe->res, file_.align.block_bytes)) {
      start(io);
    } else {
      PCACHE_DCHECK(in_ring_ > 0);
      finished.push(io);
      in_ring_--;
    }
  }
  if (count == 0) return finished;
  io_uring_cq_advance(ring_.get(), count);
  while (in_ring_ < depth_ && !backlog_.empty()) {
    in_ring_++;
    start(backlog_.pop());
  }
  if (wake_seen) {
    wake_posted_ = false;
    if (waiting_ && reaper == Reaper::kPoller) post_wake();  // it was meant for the waiter
  }
  return finished;
}

unsigned UringQueue::report(BlockIoList finished, Reaper reaper) {
  const unsigned count = report_finished(finished, bounce_);
  MutexLock lock(mu_);
  PCACHE_DCHECK(count <= in_flight());
  in_flight_.fetch_sub(count, std::memory_order_relaxed);
  reported_ += count;
  const bool wake = waiting_ && !wake_posted_;
  if (wake) post_wake();
  // Pushes what `done` submitted: a poller may be late. A waiter pushes before it sleeps.
  if (wake || reaper == Reaper::kPoller) push();
  return count;
}

unsigned UringQueue::poll() {
  BlockIoList finished;
  {
    MutexLock lock(mu_);
    finished = reap(Reaper::kPoller);
    if (finished.empty()) {
      push();
      return 0;
    }
  }
  return report(finished, Reaper::kPoller);
}

// Also reaps what a push completes at once: then there is no need to sleep.
BlockIoList UringQueue::reap_after_push(bool* all_pushed) {
  for (;;) {
    BlockIoList finished = reap(Reaper::kWaiter);
    const bool prepared = io_uring_sq_ready(ring_.get()) > 0;
    *all_pushed = push();
    if (!finished.empty() || !prepared || !*all_pushed) return finished;
  }
}

unsigned UringQueue::wait(int64_t timeout_ns) {
  const Deadline deadline(timeout_ns);
  BlockIoList finished;
  uint64_t reported_before = 0;
  bool first = true;
  for (;;) {
    int64_t left_ns = 0;
    {
      MutexLock lock(mu_);
      if (first) {
        PCACHE_CHECK(!waiting_);
        reported_before = reported_;
        first = false;
      }
      bool all_pushed = true;
      finished = reap_after_push(&all_pushed);
      left_ns = deadline.left_ns(longest_sleep_ns_);
      waiting_ = finished.empty() && reported_ == reported_before && left_ns > 0 && in_flight() > 0;
      if (!waiting_) break;
      if (!all_pushed) left_ns = std::min(left_ns, kShortOfMemoryNs);
    }
    const int rc = wait_for_completion(ring_fd_, left_ns);
    PCACHE_CHECK(rc >= 0 || rc == -ETIME || rc == -EINTR || short_of_memory(rc));
    if (short_of_memory(rc)) {
      const timespec pause = {0, std::min(left_ns, kShortOfMemoryNs)};
      ppoll(nullptr, 0, &pause, nullptr);
    }
  }
  return finished.empty() ? 0 : report(finished, Reaper::kWaiter);
}

}  // namespace pcache
