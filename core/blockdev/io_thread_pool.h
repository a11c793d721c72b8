// SPDX-License-Identifier: GPL-2.0-or-later
// IoThreadPool: the threads that do a device's I/O, shared by its queues. Any thread may call.
#pragma once

#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "blockdev/backing_file.h"
#include "blockdev/block_io.h"

namespace pcache {

class IoThreadPool {
 public:
  // A pool thread calls it once the request's `result` is set.
  using Finished = void (*)(BlockIo* io);

  // `file` outlives the pool.
  IoThreadPool(const BackingFile& file, Finished finished) : file_(file), finished_(finished) {}
  ~IoThreadPool();

  // Grows to `count` threads, at most kMaxThreads.
  Status grow(unsigned count) EXCLUDES(mu_);
  void run(BlockIo* io) EXCLUDES(mu_);

 private:
  static constexpr unsigned kMaxThreads = 8;

  void work() EXCLUDES(mu_);

  const BackingFile& file_;
  const Finished finished_;
  Mutex mu_;
  CondVar changed_;
  BlockIoList jobs_ GUARDED_BY(mu_);
  bool stop_ GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_ GUARDED_BY(mu_);
};

}  // namespace pcache
