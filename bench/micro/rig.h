// SPDX-License-Identifier: GPL-2.0-or-later
// Rig: a cache over scratch memory with a queue, for the request path. Its background work is
// stepped by nobody, so what is measured is the caller's thread alone; a rig is used up when its
// cache is full (room()).
#pragma once

#include <string>
#include <vector>

#include "cache/cache.h"
#include "micro/scratch.h"

namespace pcache::micro {

inline constexpr uint64_t kRigBytes = 1 << 30;

class Rig {
 public:
  // `memory` of kRigBytes is formatted.
  Rig(ScratchMemory& memory, const PersistOps* ops, bool data_crc);
  ~Rig();

  void write(uint64_t off, uint64_t len, uint32_t flags = 0);
  void read(uint64_t off, uint64_t len);
  void flush();
  // read(), and load(), in batches: what has been noted so is done with every `together`th of them.
  // Each has a buffer of its own.
  void read_together(uint64_t off, uint64_t len, uint32_t together);
  void load_together(uint64_t off, uint64_t len, uint32_t together);
  // The bound: the same bytes stored to, or loaded from, the same memory, and nothing else.
  void store(uint64_t off, uint64_t len);
  void load(uint64_t off, uint64_t len);
  // Bytes that can still be written before a write would wait.
  static constexpr uint64_t room() { return kRigBytes * 3 / 4; }

 private:
  std::unique_ptr<Cache> cache_;
  std::unique_ptr<Queue> queue_;
  std::unique_ptr<Pmem> bound_;
  std::byte* const buffer_;
  std::vector<pcache_request> batch_;
};

// An operation of the request path, with what must be there before.
struct RequestCase {
  const char* name;
  uint64_t bytes;    // of the operation
  uint64_t written;  // by it to the cache
  void (*prepare)(Rig& rig);
  void (*run)(Rig& rig, uint64_t page);  // any page of the working set
};
inline constexpr uint64_t kWorkingSetBytes = 64 << 20;
std::span<const RequestCase> request_cases();

}  // namespace pcache::micro
