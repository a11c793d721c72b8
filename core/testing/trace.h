// SPDX-License-Identifier: GPL-2.0-or-later
// Trace: all events of the two media, in one order: stores and fences of pmem, writes and flushes
// of the backing device. Several processes may have the pmem: each event says whose it is. From it
// follows what a power failure can leave at any point (power_loss.h). Any thread may add; one
// thread reads, while no other adds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "testing/memory_device.h"

namespace pcache {

struct TraceEvent {
  enum class Kind : uint8_t {
    kStore,         // to pmem: durable after the next fence of the same thread
    kUnflushed,     // to pmem, and left in the CPU's cache: durable at any time, or never
    kFence,         // of one thread
    kFenceThreads,  // of all others of its process
    kFlush,         // of lines, whoever stored to them: durable after this thread's next fence, too
    kKilled,  // the process is gone; what it has stored and not fenced may be on media, or not
    // Of the backing device; a write's id is `id`, a flush's too.
    kDeviceWrite,        // submitted: from now on it may be on the medium, whole or in part
    kDeviceWriteDone,    // completed: in the device's volatile cache, or on the medium
    kDeviceFlushBegun,   // covers the writes that have completed
    kDeviceFlush,        // has succeeded: what it covers is durable
    kDeviceFlushFailed,  // what it covers may be lost, whatever later flushes do
    kMark,               // the user's side: a request begins or is acknowledged
  };
  Kind kind = Kind::kMark;
  uint32_t thread = 0;
  uint32_t process = 0;
  uint64_t off = 0;  // bytes, on the medium
  uint32_t len = 0;
  size_t bytes_at = 0;
  uint64_t id = 0;
};

class Trace {
 public:
  void add(TraceEvent::Kind kind, uint64_t off = 0, const void* bytes = nullptr, size_t len = 0,
           uint64_t id = 0, uint32_t process = 0);
  void add(const MemoryDevice::Change& change);
  // The number of events: the time of the user's marks.
  size_t now() const {
    std::lock_guard lock(mu_);
    return events_.size();
  }
  void clear();
  const std::vector<TraceEvent>& events() const { return events_; }
  // TraceEvent::bytes_at counts from here.
  const std::byte* all_bytes() const { return bytes_.data(); }

 private:
  mutable std::mutex mu_;
  std::vector<TraceEvent> events_;
  std::vector<std::byte> bytes_;
};

}  // namespace pcache
