// SPDX-License-Identifier: GPL-2.0-or-later
// GrowingSize: a size in bytes that only grows, while others go by it.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.h"

namespace pcache {

class GrowingSize {
 public:
  GrowingSize(uint64_t bytes = 0) : bytes_(bytes) {}  // NOLINT: it is a number of bytes
  // While no other thread has either.
  GrowingSize(const GrowingSize& other) : bytes_(other.bytes()) {}
  GrowingSize& operator=(const GrowingSize& other) {
    bytes_.store(other.bytes(), std::memory_order_relaxed);
    return *this;
  }

  // Any thread. Who sees a size sees all that was there before it was set.
  uint64_t bytes() const { return bytes_.load(std::memory_order_acquire); }
  operator uint64_t() const { return bytes(); }  // NOLINT: reads as the number it is
  // Of who knows otherwise that it was set. It orders no memory.
  uint64_t known_bytes() const { return bytes_.load(std::memory_order_relaxed); }
  // One thread at a time.
  void grow(uint64_t bytes) {
    PCACHE_DCHECK(bytes >= this->bytes());
    bytes_.store(bytes, std::memory_order_release);
  }

 private:
  std::atomic<uint64_t> bytes_;
};

}  // namespace pcache
