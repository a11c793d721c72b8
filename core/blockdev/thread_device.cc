// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/thread_device.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>

#include "base/mutex.h"
#include "blockdev/deadline.h"
#include "blockdev/io_thread_pool.h"

namespace pcache {

namespace {

// Invariants
// - event_ is readable exactly when finished_ is not empty (both change under mu_).
// - A pool thread's last access to the queue is under mu_, before `done` can run: so an empty queue
//   may be destroyed.
class ThreadQueue final : public BlockQueue {
 public:
  ThreadQueue(const BackingFile& file, IoThreadPool& pool, unsigned depth, UniqueFd event)
      : file_(file), pool_(pool), depth_(std::max(depth, 1u)), event_(std::move(event)) {}
  ~ThreadQueue() override {
    MutexLock lock(mu_);  // waits for the end of another thread's last poll()
    PCACHE_CHECK(in_flight_.load() == 0);
    PCACHE_CHECK(running_ == 0 && backlog_.empty() && finished_.empty());
  }

  void submit(BlockIo* io) override EXCLUDES(mu_);
  bool kick() override { return true; }
  unsigned poll() override EXCLUDES(mu_);
  unsigned wait(int64_t timeout_ns) override EXCLUDES(mu_);
  int fd() const override { return event_.get(); }
  unsigned in_flight() const override { return in_flight_.load(std::memory_order_relaxed); }

  // Called by a pool thread.
  static void on_finished(BlockIo* io) { static_cast<ThreadQueue*>(io->queue)->finish(io); }

 private:
  void finish(BlockIo* io) EXCLUDES(mu_);
  void add_finished(BlockIo* io) REQUIRES(mu_);
  BlockIoList take_finished() REQUIRES(mu_);
  unsigned report(BlockIoList finished) EXCLUDES(mu_);

  const BackingFile& file_;
  IoThreadPool& pool_;
  const unsigned depth_;
  const UniqueFd event_;
  BouncePool bounce_;

  Mutex mu_;
  CondVar changed_;
  BlockIoList backlog_ GUARDED_BY(mu_);  // beyond depth_, in order of arrival
  BlockIoList finished_ GUARDED_BY(mu_);
  unsigned running_ GUARDED_BY(mu_) = 0;   // given to the pool
  uint64_t reported_ GUARDED_BY(mu_) = 0;  // requests whose `done` has returned
  bool waiting_ GUARDED_BY(mu_) = false;   // a thread is in wait()
  std::atomic<unsigned> in_flight_{0};     // written under mu_
};

void ThreadQueue::submit(BlockIo* io) {
  PCACHE_CHECK(io->op == BlockOp::kFlush ||
               (io->off <= file_.size_bytes && io->len <= file_.size_bytes - io->off));
  const bool prepared = prepare_io(io, this, file_.align, bounce_);
  {
    MutexLock lock(mu_);
    in_flight_.fetch_add(1, std::memory_order_relaxed);
    if (!prepared) return add_finished(io);
    if (running_ == depth_) return backlog_.push(io);
    running_++;
  }
  pool_.run(io);
}

void ThreadQueue::add_finished(BlockIo* io) {
  if (finished_.empty()) {
    const uint64_t one = 1;
    PCACHE_CHECK(write(event_.get(), &one, sizeof one) == sizeof one);
  }
  finished_.push(io);
  if (waiting_) changed_.notify_one();
}

void ThreadQueue::finish(BlockIo* io) {
  BlockIo* next = nullptr;
  IoThreadPool& pool = pool_;
  {
    MutexLock lock(mu_);
    PCACHE_DCHECK(running_ > 0 && running_ <= depth_);
    add_finished(io);
    next = backlog_.pop();
    if (!next) running_--;
  }
  if (next) pool.run(next);
}

BlockIoList ThreadQueue::take_finished() {
  if (!finished_.empty()) {
    uint64_t count = 0;
    PCACHE_CHECK(read(event_.get(), &count, sizeof count) == sizeof count);
  }
  return std::exchange(finished_, BlockIoList());
}

unsigned ThreadQueue::report(BlockIoList finished) {
  if (finished.empty()) return 0;
  const unsigned count = report_finished(finished, bounce_);
  MutexLock lock(mu_);
  PCACHE_DCHECK(count <= in_flight());
  in_flight_.fetch_sub(count, std::memory_order_relaxed);
  reported_ += count;
  if (waiting_) changed_.notify_one();
  return count;
}

unsigned ThreadQueue::poll() {
  BlockIoList finished;
  {
    MutexLock lock(mu_);
    finished = take_finished();
  }
  return report(finished);
}

unsigned ThreadQueue::wait(int64_t timeout_ns) {
  constexpr int64_t kLongestSleepNs = 1'000'000'000;  // of one sleep; then the loop sleeps again
  const Deadline deadline(timeout_ns);
  BlockIoList finished;
  {
    MutexLock lock(mu_);
    PCACHE_CHECK(!waiting_);
    waiting_ = true;
    const uint64_t reported_before = reported_;
    while (finished_.empty() && reported_ == reported_before && in_flight() > 0) {
      const int64_t left_ns = deadline.left_ns(kLongestSleepNs);
      if (left_ns == 0) break;
      changed_.wait_for(mu_, std::chrono::nanoseconds(left_ns));
    }
    waiting_ = false;
    finished = take_finished();
  }
  return report(finished);
}

class ThreadDevice final : public BlockDevice {
 public:
  explicit ThreadDevice(BackingFile file)
      : file_(std::move(file)), pool_(file_, &ThreadQueue::on_finished) {}

  uint64_t size_bytes() const override { return file_.size_bytes; }
  Result<uint64_t> measure_again() override { return pcache::measure_again(&file_); }
  Status sync_size() const override { return pcache::sync_size(file_); }
  uint32_t logical_block_bytes() const override { return file_.align.block_bytes; }
  const DeviceIdentity& identity() const override { return file_.identity; }
  const char* io_mode_name() const override { return "threads"; }
  bool makes_holes() const override { return file_.makes_holes; }
  bool is_hole(uint64_t off, uint64_t* end) const override {
    return pcache::is_hole(file_, off, end);
  }
  Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) override {
    UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event.valid())
      return error_errno(errno, "cannot make an eventfd for backing device %s", file_.path.c_str());
    if (Status grown = pool_.grow(std::max(depth, 1u)); !grown) return grown.error();
    return std::unique_ptr<BlockQueue>(new ThreadQueue(file_, pool_, depth, std::move(event)));
  }

 private:
  BackingFile file_;
  IoThreadPool pool_;
};

}  // namespace

std::unique_ptr<BlockDevice> make_thread_device(BackingFile file) {
  return std::make_unique<ThreadDevice>(std::move(file));
}

}  // namespace pcache
