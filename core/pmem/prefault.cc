// SPDX-License-Identifier: GPL-2.0-or-later
#include "pmem/prefault.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <system_error>

#include "base/check.h"

namespace pcache {

namespace {

// About a millisecond: as long may a close wait, or a mmap() of another thread.
constexpr uint64_t kPieceBytes = 4 << 20;

}  // namespace

Prefault::~Prefault() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
}

void Prefault::run() {
  for (uint64_t at = 0; at < size_ && !stop_.load(std::memory_order_relaxed); at += kPieceBytes)
    if (madvise(base_ + at, std::min(kPieceBytes, size_ - at), MADV_POPULATE_WRITE) != 0) return;
}

void Prefault::start() {
  PCACHE_CHECK(!thread_.joinable());
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // the thread inherits it
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {
    // No thread: then faults do it.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace pcache
