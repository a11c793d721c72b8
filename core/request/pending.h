// SPDX-License-Identifier: GPL-2.0-or-later
// A request that was not complete when submit() returned.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/ids.h"
#include "pcache.h"

namespace pcache {

class Queue;

// How far a READ has been looked at: what is before that has been copied, or is being read from the
// backing device.
struct ReadProgress {
  Extent todo;
  std::byte* dst = nullptr;  // of todo's first byte
  uint64_t fetched_bytes = 0;

  void pass(uint64_t len_bytes) {
    todo.off += len_bytes;
    todo.len -= len_bytes;
    dst += len_bytes;
  }
};

// How far a WRITE or FLUSH has come: one that finds the cache full goes on from here later.
struct WriteProgress {
  bool admitted = false;        // has passed Pace
  bool flushed_before = false;  // PREFLUSH is done
  uint64_t done_bytes = 0;      // from the request's start
};

struct PendingRequest {
  Queue* queue = nullptr;
  pcache_request* request = nullptr;
  // A read: fills it waits for, and one while not all of it has been looked at.
  std::atomic<uint32_t> parts{0};
  std::atomic<int> error{0};     // positive errno, the first
  bool joined = false;           // a read: waits for another queue's fill
  bool waits_for_space = false;  // a write or flush: is in Deferred
  WriteProgress progress;
  ReadProgress read;
  PendingRequest* next = nullptr;  // in the one list that it is in
  uint64_t since_ns = 0;           // when it began to wait
};

}  // namespace pcache
