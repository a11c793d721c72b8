// SPDX-License-Identifier: GPL-2.0-or-later
// ReadAhead: behind a run of sequential misses a queue reads more of the backing device than was
// asked for, so that a program that reads in small pieces, one after the other, waits for the
// device once for many of them. It is a fill like any other, but that no request owns it: reads
// join it, writes make it void, what of it stands is cached.
//
// Invariants
// - A queue has one under way at most, into a buffer of its own, which is made at the first one and
//   again when a larger one is asked for. Without memory nothing is read ahead.
// - Where it fails nobody fails: who has joined it reads for itself, and none is read over that
//   place again.
// - The policy sees the reads that somebody asks for: what came ahead is hit from its second on.
// Threads: begun by its queue's; ended by whoever polls that queue's device.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "request/fill.h"
#include "request/pending.h"

namespace pcache {

class ReadAhead {
 public:
  explicit ReadAhead(QueueState* queue) { owner_.queue = queue; }

  bool under_way() const { return under_way_.load(std::memory_order_acquire); }
  // While none is under way. False: there is no memory for so much. `align`: a power of two.
  bool make_buffer(uint64_t len_bytes, uint64_t align);
  // Whether it has failed there.
  bool has_failed(const Extent& extent) const {
    return extent.off < failed_.end() && failed_.off < extent.end();
  }
  // While none is under way, and the buffer has room.
  Fill* prepare(const Extent& extent);
  void begin() { under_way_.store(true, std::memory_order_relaxed); }
  // From then on the queue may be gone. `error`: a positive errno, or 0.
  void end(int error) {
    if (error) failed_ = fill_.extent;
    under_way_.store(false, std::memory_order_release);
  }
  bool is(const Fill* fill) const { return fill == &fill_; }

 private:
  struct Free {
    void operator()(void* memory) const { free(memory); }
  };
  PendingRequest owner_;  // of no request
  Fill fill_;
  std::unique_ptr<std::byte, Free> buffer_;
  uint64_t buffer_bytes_ = 0;
  Extent failed_;  // the last that has
  std::atomic<bool> under_way_{false};
};

// Behind `miss`, which is to be cached and goes on with a run that has missed so much with it.
// Nothing may be begun: the option, space or the policy say no, one is under way, or what follows
// is there.
void read_ahead(QueueState& queue, const Extent& miss, uint64_t run_bytes);

}  // namespace pcache
