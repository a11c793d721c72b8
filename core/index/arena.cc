// SPDX-License-Identifier: GPL-2.0-or-later
#include "index/arena.h"

#include <algorithm>

#include "base/check.h"

namespace pcache::index_impl {

Status Arena::create(uint64_t objects, uint64_t most_objects, uint32_t object_bytes,
                     const char* what) {
  PCACHE_CHECK(objects >= 1 && object_bytes % sizeof(uint64_t) == 0);
  objects = std::min(objects, kMaxObjects);
  most_objects = std::min(most_objects, kMaxObjects);
  object_bytes_ = object_bytes;
  end_.store(objects + 1, std::memory_order_relaxed);
  reserve_ = std::min<uint64_t>(objects / 16, 4096);
  return memory_.map((objects + 1) * object_bytes, (most_objects + 1) * object_bytes,
                     Reservation::Pages::kHuge, what);
}

Status Arena::grow(uint64_t objects) {
  const uint64_t end = std::min(objects, kMaxObjects) + 1;
  if (end <= end_.load(std::memory_order_relaxed)) return {};
  if (Status grown = memory_.grow(end * object_bytes_); !grown) return grown;
  end_.store(end, std::memory_order_release);
  return {};
}

std::atomic<uint64_t>& Arena::link(uint32_t handle) const {
  return reinterpret_cast<std::atomic<uint64_t>*>(base() + uint64_t{handle} * object_bytes_)[1];
}

bool Arena::ensure(Pool& pool, uint32_t count, Claim claim) {
  const uint32_t have = pool.free_count + (pool.limit - pool.next);
  if (have >= count) return true;
  const uint64_t need = count - have;
  const uint64_t all = end_.load(std::memory_order_acquire);
  const uint64_t end = claim == Claim::kOrdinary ? all - reserve_ : all;
  uint64_t start = bump_.load(std::memory_order_relaxed);
  uint64_t got;
  do {
    if (start + need > end) return false;
    got = std::min<uint64_t>(std::max<uint64_t>(need, batch(object_bytes_)), end - start);
  } while (!bump_.compare_exchange_weak(start, start + got, std::memory_order_relaxed));
  if (start != pool.limit) {
    while (pool.next != pool.limit) give(pool, pool.next++);
    pool.next = static_cast<uint32_t>(start);
  }
  pool.limit = static_cast<uint32_t>(start + got);
  return true;
}

uint32_t Arena::take(Pool& pool) {
  if (pool.free_head == 0) {
    PCACHE_CHECK(pool.next != pool.limit);
    return pool.next++;
  }
  const uint32_t handle = pool.free_head;
  std::atomic<uint64_t>& word = link(handle);
  pool.free_head = static_cast<uint32_t>(word.load(std::memory_order_relaxed));
  --pool.free_count;
  word.store(0, std::memory_order_release);
  return handle;
}

void Arena::give(Pool& pool, uint32_t handle) {
  PCACHE_DCHECK(handle != 0 && handle < end_.load(std::memory_order_relaxed));
  // Release: a stale reader that sees the link also sees the change that freed the object.
  link(handle).store(pool.free_head, std::memory_order_release);
  pool.free_head = handle;
  ++pool.free_count;
}

}  // namespace pcache::index_impl
