// SPDX-License-Identifier: GPL-2.0-or-later
// What every kind of queue does with a BlockIo: chain, bounce, account for a transfer, report.
// Plain functions on requests that the caller owns; only BouncePool is shared between threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/mutex.h"
#include "blockdev/block_device.h"

namespace pcache {

// A FIFO through BlockIo::next.
class BlockIoList {
 public:
  bool empty() const { return head_ == nullptr; }
  void push(BlockIo* io) {
    PCACHE_DCHECK(io != nullptr && (empty() || io != tail_));
    io->next = nullptr;
    (head_ ? tail_->next : head_) = io;
    tail_ = io;
  }
  BlockIo* pop() {
    BlockIo* io = head_;
    if (io) head_ = io->next;
    return io;
  }

 private:
  BlockIo* head_ = nullptr;
  BlockIo* tail_ = nullptr;
};

// What O_DIRECT needs for a transfer.
struct DirectIoAlign {
  uint32_t block_bytes = 512;   // of offset and length
  uint32_t memory_bytes = 512;  // of the buffer's address
};

// Aligned buffers for requests whose own buffer is not aligned. Such requests are rare, so it keeps
// a few and searches them. Any thread.
class BouncePool {
 public:
  BouncePool() = default;
  ~BouncePool();
  BouncePool(const BouncePool&) = delete;
  BouncePool& operator=(const BouncePool&) = delete;

  // nullptr: no memory. put() needs the same `len_bytes` as get().
  void* get(uint32_t len_bytes, uint32_t align_bytes);
  void put(void* buffer, uint32_t len_bytes);

 private:
  struct Kept {
    void* buffer = nullptr;
    size_t capacity_bytes = 0;
  };
  static constexpr uint32_t kKeptLimitBytes = 1u << 20;

  Mutex mu_;
  std::array<Kept, 8> kept_ GUARDED_BY(mu_);
};

// Resets the queue's fields. If the buffer is not aligned, gives the request a bounce buffer, with
// a write's data in it. False: no memory.
bool prepare_io(BlockIo* io, BlockQueue* queue, DirectIoAlign align, BouncePool& pool);

// The buffer of the request's next transfer.
inline void* transfer_buffer(const BlockIo* io) {
  return static_cast<char*>(io->bounce ? io->bounce : io->buf) + io->progress;
}
inline uint64_t transfer_off(const BlockIo* io) { return io->off + io->progress; }
inline uint32_t transfer_len(const BlockIo* io) { return io->len - io->progress; }

// fallocate(2)'s mode for a kZero or kPunchHole.
int zero_mode(BlockOp op);

// Accounts for the result of a system call or completion (bytes or -errno). True: the request is
// finished and `result` is set. False: issue the rest of it again.
bool account_transfer(BlockIo* io, int res, uint32_t block_bytes);

// Copies bounced data back and runs `done` of each, in order; returns how many. Hold no lock.
unsigned report_finished(BlockIoList finished, BouncePool& pool);

}  // namespace pcache
