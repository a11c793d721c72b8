// SPDX-License-Identifier: GPL-2.0-or-later
// Requests in flight: those that were not complete when submit() returned.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/ids.h"
#include "request/op.h"

namespace pcache {

// How far a READ has been looked at: what is before that has been copied, or is being read from the
// backing device.
struct ReadProgress {
  Extent todo;
  std::byte* dst = nullptr;  // of todo's first byte
  uint64_t fetched_bytes = 0;

  void pass(uint64_t len_bytes) {
    PCACHE_DCHECK(len_bytes <= todo.len);
    todo.off += len_bytes;
    todo.len -= len_bytes;
    dst += len_bytes;
  }
};

// How far a WRITE, a FLUSH or one of zeros has come: one that finds the cache full goes on from
// here later.
struct WriteProgress {
  bool admitted = false;        // by Pace
  bool flushed_before = false;  // PREFLUSH is done
  bool try_whole = true;        // write_extent() is to be tried, once
  uint64_t done_bytes = 0;      // from the request's start
  // For DeviceAcks: it has begun to enter the log; so much data had turned out to be damaged then;
  // it waits until the backing device has it.
  bool begun = false;
  uint32_t losses = 0;
  bool to_device = false;
};

inline bool writes_zeros(const pcache_request& request) {
  return request.op == PCACHE_OP_DISCARD || request.op == PCACHE_OP_WRITE_ZEROES;
}
// Of a write: what it takes of Pace's credit, about as much as it stores.
inline uint64_t credit_bytes(const pcache_request& request) {
  constexpr uint64_t kOfZeros = 64 << 10;
  return writes_zeros(request) ? std::min(request.len, kOfZeros) : request.len;
}

struct PendingRequest {
  QueueState* queue = nullptr;
  pcache_request* request = nullptr;
  const Op* op = nullptr;
  LatencyClass latency = {};
  // Of a read: a part for each fill it waits for, and one while not all of it has been looked at.
  std::atomic<uint32_t> parts_to_come{0};
  std::atomic<int> error{0};     // positive errno, the first
  bool joined = false;           // a read: waits for another queue's fill
  bool waits_elsewhere = false;  // a write or flush: is in Deferred, or in DeviceAcks
  WriteProgress write;
  uint64_t in_ksets = 0;  // a write in DeviceAcks: how much of the log has it, once that is known
  ReadProgress read;
  PendingRequest* next = nullptr;  // in the one list that it is in
  uint64_t since_ns = 0;           // when it began to wait
  // In Deferred, under its mu_: the order of arrival; and how much is done at least.
  uint64_t serial = 0, noted_bytes = 0;
};

// First in, first out.
class PendingList {
 public:
  bool empty() const { return first_ == nullptr; }
  PendingRequest* front() const { return first_; }
  uint32_t count() const {
    uint32_t n = 0;
    for (const PendingRequest* at = first_; at != nullptr; at = at->next) n++;
    return n;
  }
  void push_back(PendingRequest* pending) {
    PCACHE_DCHECK(pending != nullptr && pending != last_in());
    pending->next = nullptr;
    (first_ != nullptr ? last_->next : first_) = pending;
    last_ = pending;
  }
  void push_front(PendingRequest* pending) {
    pending->next = first_;
    if (first_ == nullptr) last_ = pending;
    first_ = pending;
  }
  // Of a list in the order of `serial`.
  void insert(PendingRequest* pending) {
    if (empty() || last_->serial < pending->serial) return push_back(pending);
    PendingRequest** at = &first_;
    while ((*at)->serial < pending->serial) at = &(*at)->next;
    pending->next = *at;
    *at = pending;
  }
  // All of `other`, which is empty then.
  void append(PendingList* other) {
    if (other->empty()) return;
    (first_ != nullptr ? last_->next : first_) = other->first_;
    last_ = other->last_;
    *other = {};
  }
  // Those of one queue, in order; keeps the others.
  PendingList take_of(const QueueState& queue) {
    PendingList taken, kept;
    while (PendingRequest* pending = pop_front())
      (pending->queue == &queue ? taken : kept).push_back(pending);
    *this = kept;
    return taken;
  }
  // nullptr: it is empty.
  PendingRequest* pop_front() {
    PendingRequest* const pending = first_;
    if (pending != nullptr) first_ = pending->next;
    return pending;
  }

 private:
  const PendingRequest* last_in() const { return empty() ? nullptr : last_; }
  PendingRequest *first_ = nullptr, *last_ = nullptr;
};

// A queue's requests in flight, as many as its depth; made with it. The queue's thread alone.
class InFlightTable {
 public:
  InFlightTable(uint32_t depth, QueueState* queue)
      : depth_(depth), all_(std::make_unique<PendingRequest[]>(depth)) {
    for (uint32_t i = depth; i-- > 0;) {
      all_[i].queue = queue;
      free_.push_front(&all_[i]);
    }
  }
  bool full() const { return count_ >= depth_; }
  uint32_t count() const { return count_; }
  uint32_t waiting_elsewhere() const { return waiting_elsewhere_; }
  uint32_t joined() const { return joined_; }

  // When it is not full. The request has one part, to be finished by who has looked at all of it.
  PendingRequest* take(pcache_request* request, const Op& op) {
    PendingRequest* const pending = free_.pop_front();
    PCACHE_CHECK(pending != nullptr && count_ < depth_);
    count_++;
    pending->request = request;
    pending->op = &op;
    pending->latency = op.latency;
    pending->joined = false;
    pending->waits_elsewhere = false;
    pending->since_ns = now_ns();
    pending->error.store(0, std::memory_order_relaxed);
    pending->parts_to_come.store(1, std::memory_order_relaxed);
    return pending;
  }
  void note_waits_elsewhere(PendingRequest* pending) {
    PCACHE_DCHECK(!pending->waits_elsewhere && pending->op->resume != nullptr);
    pending->waits_elsewhere = true;
    waiting_elsewhere_++;
  }
  // It waits for another queue's fill.
  void note_joined(PendingRequest* pending) {
    if (!std::exchange(pending->joined, true)) joined_++;
  }
  void give_back(PendingRequest* pending) {
    PCACHE_DCHECK(count_ > 0 && (!pending->joined || joined_ > 0) &&
                  (!pending->waits_elsewhere || waiting_elsewhere_ > 0));
    if (pending->joined) joined_--;
    if (pending->waits_elsewhere) waiting_elsewhere_--;
    count_--;
    free_.push_front(pending);
  }

 private:
  const uint32_t depth_;
  uint32_t count_ = 0, waiting_elsewhere_ = 0, joined_ = 0;
  const std::unique_ptr<PendingRequest[]> all_;
  PendingList free_;
};

}  // namespace pcache
