// SPDX-License-Identifier: GPL-2.0-or-later
// RequestState: what the requests of a cache share and change, whichever queue they come by: data
// heads, admission (Pace), the requests that wait for space, or for the backing device, counters.
// Any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/growing_size.h"
#include "parts/parts.h"
#include "request/counters.h"
#include "request/deferred.h"
#include "request/device_acks.h"
#include "request/pace.h"
#include "segment/data_head.h"
#include "segment/space_policy.h"

namespace pcache {

class RequestState {
 public:
  // `heads`: how many, kMostHeads at most; a queue has one, and shares it when there are more
  // queues. Throws std::bad_alloc.
  RequestState(const Parts& parts, uint32_t heads);

  const Parts& parts() const { return parts_; }
  // Requests end there. Grows when all that they use of the device and the index is there.
  uint64_t logical_bytes() const { return logical_bytes_; }
  void grow(uint64_t logical_bytes) { logical_bytes_.grow(logical_bytes); }
  // In turn.
  DataHead& next_head();
  // For queues that are made later. One thread at a time. Throws std::bad_alloc.
  void set_heads(uint32_t heads);
  // For tests, when no queue is left: gives back what the heads hold of their segments.
  void close_heads();
  Pace& pace() { return pace_; }
  Deferred& deferred() { return deferred_; }
  DeviceAcks& acks() { return acks_; }
  SharedCounters& counters() { return counters_; }

  // Whether a write need not wait for its turn, nor for credit, nor for the backing device.
  bool admits_at_once() const { return deferred_.lets_all_pass() && !pace_.on(); }
  // Otherwise it takes its credit.
  bool admit(uint64_t len_bytes) { return deferred_.empty() && pace_.take(len_bytes); }

  // Sequential misses are not kept beyond so many bytes; 0: all are.
  uint64_t seq_cutoff_bytes() const { return seq_cutoff_.load(std::memory_order_relaxed); }
  void set_seq_cutoff_bytes(uint64_t n) { seq_cutoff_.store(n, std::memory_order_relaxed); }

  // Behind a run of sequential misses so much is read at once, at most; 0: nothing is.
  uint64_t read_ahead_bytes() const { return read_ahead_.load(std::memory_order_relaxed); }
  void set_read_ahead_bytes(uint64_t n) { read_ahead_.store(n, std::memory_order_relaxed); }

  // Data that a FLUSH had promised is not safe in pmem any more: the next FLUSH fails, once.
  void data_lost(int error) { lost_.store(error, std::memory_order_relaxed); }
  // A positive errno, or 0.
  int take_lost() {
    return lost_.load(std::memory_order_relaxed) == 0
               ? 0
               : lost_.exchange(0, std::memory_order_relaxed);
  }

 private:
  const Parts parts_;  // a copy of the references: one load less on each way
  GrowingSize logical_bytes_{parts_.logical_bytes};
  Pace pace_;
  Deferred deferred_{*this};
  DeviceAcks acks_{*parts_.mode};
  std::atomic<int> lost_{0};
  std::atomic<uint64_t> seq_cutoff_{0}, read_ahead_{0};
  std::array<std::unique_ptr<DataHead>, kMostHeads> heads_;
  std::atomic<uint32_t> heads_made_{0};
  std::atomic<uint32_t> next_head_{0};
  SharedCounters counters_;
};

}  // namespace pcache
