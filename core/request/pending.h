// SPDX-License-Identifier: GPL-2.0-or-later
// A request that was not complete when submit() returned.
#pragma once

#include <atomic>
#include <cstdint>

#include "pcache.h"

namespace pcache {

class Queue;

// How far a WRITE or FLUSH has come: one that finds the cache full goes on from here later.
struct WriteProgress {
  bool admitted = false;        // has passed Pace
  bool flushed_before = false;  // PREFLUSH is done
  uint64_t done_bytes = 0;      // from the request's start
};

struct PendingRequest {
  Queue* queue = nullptr;
  pcache_request* request = nullptr;
  std::atomic<uint32_t> parts{
      0};                        // a read: fills it waits for, and one while it is being submitted
  std::atomic<int> error{0};     // positive errno, the first
  bool joined = false;           // a read: waits for another queue's fill
  bool waits_for_space = false;  // a write or flush: is in Deferred
  WriteProgress progress;
  PendingRequest* next = nullptr;  // in Deferred
  uint64_t since_ns = 0;           // when it began to wait
};

}  // namespace pcache
