// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/block_io.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

namespace pcache {

namespace {

// These errors are transient (see account_transfer), but a broken driver must not make us loop.
constexpr uint32_t kMaxRetries = 64;

size_t capacity_for(uint32_t len_bytes) { return std::bit_ceil(std::max<size_t>(len_bytes, 4096)); }

}  // namespace

BouncePool::~BouncePool() {
  for (const Kept& kept : kept_) free(kept.buffer);
}

void* BouncePool::get(uint32_t len_bytes, uint32_t align_bytes) {
  const size_t capacity = capacity_for(len_bytes);
  {
    MutexLock lock(mu_);
    for (Kept& kept : kept_)
      if (kept.buffer && kept.capacity_bytes == capacity) {
        PCACHE_DCHECK(reinterpret_cast<uintptr_t>(kept.buffer) % align_bytes == 0);
        return std::exchange(kept.buffer, nullptr);
      }
  }
  // The capacity is a power of two of a page or more, so a multiple of any real alignment.
  const size_t align = std::max<size_t>(align_bytes, 4096);
  return std::aligned_alloc(align, std::max(capacity, align));
}

void BouncePool::put(void* buffer, uint32_t len_bytes) {
  const size_t capacity = capacity_for(len_bytes);
  if (capacity <= kKeptLimitBytes) {
    MutexLock lock(mu_);
    for (Kept& kept : kept_)
      if (!kept.buffer) {
        kept = Kept{buffer, capacity};
        return;
      }
  }
  free(buffer);
}

bool prepare_io(BlockIo* io, BlockQueue* queue, DirectIoAlign align, BouncePool& pool) {
  PCACHE_DCHECK(io->done != nullptr);
  io->next = nullptr;
  io->queue = queue;
  io->bounce = nullptr;
  io->progress = 0;
  io->retries = 0;
  io->result = 0;
  if (io->op == BlockOp::kFlush) return true;
  PCACHE_DCHECK((io->off | io->len) % align.block_bytes == 0 && io->len > 0);
  if (!has_data(io->op)) return true;
  PCACHE_DCHECK(io->buf != nullptr);
  if (reinterpret_cast<uintptr_t>(io->buf) % align.memory_bytes == 0) return true;
  io->bounce = pool.get(io->len, align.memory_bytes);
  if (!io->bounce) {
    io->result = ENOMEM;
    return false;
  }
  if (io->op == BlockOp::kWrite) memcpy(io->bounce, io->buf, io->len);
  return true;
}

int zero_mode(BlockOp op) {
  PCACHE_DCHECK(makes_zeros(op));
  return FALLOC_FL_KEEP_SIZE | (op == BlockOp::kZero ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
}

bool account_transfer(BlockIo* io, int res, uint32_t block_bytes) {
  PCACHE_DCHECK(io->result == 0);
  // ECANCELED: we cancel nothing, but the kernel drops the queued requests of a thread that ends
  // after it has pushed them (another thread may call kick() or poll() on a queue).
  const bool transient = res == -EINTR || res == -EAGAIN || res == -ECANCELED;
  if (transient && io->retries++ < kMaxRetries) return false;
  if (res < 0 || !has_data(io->op)) {
    io->result = res < 0 ? -res : 0;
    return true;
  }
  io->progress += static_cast<uint32_t>(res);
  PCACHE_CHECK(io->progress <= io->len);
  if (io->progress == io->len) return true;
  // No bytes, or a part of a block: the device ends here, although it was longer when opened.
  if (res == 0 || io->progress % block_bytes != 0) {
    io->result = EIO;
    return true;
  }
  return false;
}

unsigned report_finished(BlockIoList finished, BouncePool& pool) {
  unsigned count = 0;
  while (BlockIo* io = finished.pop()) {
    PCACHE_DCHECK(io->result > 0 ||
                  (io->result == 0 && (!has_data(io->op) || io->progress == io->len)));
    if (io->bounce) {
      if (io->op == BlockOp::kRead && io->result == 0) memcpy(io->buf, io->bounce, io->len);
      pool.put(std::exchange(io->bounce, nullptr), io->len);
    }
    io->done(io);  // may free it
    count++;
  }
  return count;
}

}  // namespace pcache
