// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/io_thread_pool.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "base/no_thread.h"

namespace pcache {

namespace {

int transfer(int fd, BlockIo* io) {
  ssize_t rc = 0;
  switch (io->op) {
    case BlockOp::kRead:
      rc = pread(fd, transfer_buffer(io), transfer_len(io), static_cast<off_t>(transfer_off(io)));
      break;
    case BlockOp::kWrite:
      rc = pwrite(fd, transfer_buffer(io), transfer_len(io), static_cast<off_t>(transfer_off(io)));
      break;
    case BlockOp::kFlush:
      rc = fdatasync(fd);
      break;
    case BlockOp::kZero:
    case BlockOp::kPunchHole:
      rc = fallocate(fd, zero_mode(io->op), static_cast<off_t>(io->off), io->len);
      break;
  }
  return rc < 0 ? -errno : static_cast<int>(rc);
}

}  // namespace

IoThreadPool::~IoThreadPool() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mu_);
    PCACHE_CHECK(jobs_.empty());
    stop_ = true;
    threads.swap(threads_);
    changed_.notify_all();
  }
  for (std::thread& thread : threads) thread.join();
}

Status IoThreadPool::grow(unsigned count) {
  MutexLock lock(mu_);
  try {
    while (threads_.size() < std::min(count, kMaxThreads))
      threads_.emplace_back([this] { work(); });
  } catch (const std::system_error& e) {
    // With fewer threads than asked for, fewer requests run at a time.
    if (threads_.empty()) return no_thread(e, ("I/O on backing device " + file_.path).c_str());
  }
  return {};
}

void IoThreadPool::run(BlockIo* io) {
  {
    MutexLock lock(mu_);
    PCACHE_DCHECK(!threads_.empty());
    jobs_.push(io);
  }
  changed_.notify_one();
}

void IoThreadPool::work() {
  for (;;) {
    BlockIo* io = nullptr;
    {
      MutexLock lock(mu_);
      while (jobs_.empty() && !stop_) changed_.wait(mu_);
      io = jobs_.pop();
      if (!io) return;
    }
    while (!account_transfer(io, transfer(file_.fd.get(), io), file_.align.block_bytes)) {
    }
    finished_(io);
  }
}

}  // namespace pcache
