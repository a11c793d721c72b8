// SPDX-License-Identifier: GPL-2.0-or-later
// UringQueue: a BlockQueue over one io_uring.
//
// Invariants
// - Every call of liburing is under mu_, and none of them waits. The one system call outside mu_ is
//   wait()'s sleep, which submits nothing and touches no memory of the ring, so any thread may
//   submit and poll meanwhile.
// - No code here uses the fields of liburing's structs: some versions and kernels lack some of them
//   (since 2.6 a ring may have no array of entries).
// - At most depth_ requests have an entry in the ring (queued, running, or completed and not yet
//   reaped), and one wake. The ring is larger, so an entry is always free; the kernel holds twice
//   as many completions, so they never overflow.
// - A waiter never stays asleep: a thread that reports completions while waiting_ is set posts a
//   wake (a NOP) after `done` has run, and posts it again if it reaps that wake itself.
#pragma once

#include <liburing.h>

#include <atomic>
#include <memory>

#include "base/mutex.h"
#include "base/result.h"
#include "blockdev/backing_file.h"
#include "blockdev/block_device.h"
#include "blockdev/block_io.h"
#include "blockdev/uring_setup.h"

namespace pcache {

class UringQueue final : public BlockQueue {
 public:
  // A wake or a push that found no memory in the kernel is tried again by the next call. Without a
  // next call a waiter tries again after this time.
  static constexpr int64_t kLongestSleepNs = 1'000'000'000;

  // `file` outlives the queue. Tests set `longest_sleep_ns`, so that a lost wake hangs.
  static Result<std::unique_ptr<UringQueue>> open(const BackingFile& file, unsigned depth,
                                                  UringInit init,
                                                  int64_t longest_sleep_ns = kLongestSleepNs);
  ~UringQueue() override;

  void submit(BlockIo* io) override EXCLUDES(mu_);
  bool kick() override EXCLUDES(mu_);
  unsigned poll() override EXCLUDES(mu_);
  unsigned wait(int64_t timeout_ns) override EXCLUDES(mu_);
  int fd() const override { return ring_fd_; }
  unsigned in_flight() const override { return in_flight_.load(std::memory_order_relaxed); }

 private:
  enum class Reaper { kPoller, kWaiter };

  UringQueue(const BackingFile& file, unsigned depth, UringHandle ring, int64_t longest_sleep_ns);

  void start(BlockIo* io) REQUIRES(mu_);
  io_uring_sqe* next_entry() REQUIRES(mu_);
  // Gives all prepared entries to the kernel. False: it has no memory for some, which stay.
  bool push() REQUIRES(mu_);
  BlockIoList reap(Reaper reaper) REQUIRES(mu_);
  BlockIoList reap_after_push(bool* all_pushed) REQUIRES(mu_);
  void post_wake() REQUIRES(mu_);
  unsigned report(BlockIoList finished, Reaper reaper) EXCLUDES(mu_);

  const BackingFile& file_;
  const unsigned depth_;
  const int64_t longest_sleep_ns_;
  const int ring_fd_;
  BouncePool bounce_;

  Mutex mu_;
  const UringHandle ring_ PT_GUARDED_BY(mu_);
  BlockIoList backlog_ GUARDED_BY(mu_);    // beyond depth_, in order of arrival
  unsigned in_ring_ GUARDED_BY(mu_) = 0;   // requests, without wakes
  uint64_t reported_ GUARDED_BY(mu_) = 0;  // requests whose `done` has returned
  bool waiting_ GUARDED_BY(mu_) = false;   // a thread is in wait()
  bool wake_posted_ GUARDED_BY(mu_) = false;
  std::atomic<unsigned> in_flight_{0};  // written under mu_
};

}  // namespace pcache
