// SPDX-License-Identifier: GPL-2.0-or-later
// PmemSim: pmem in memory. Stores and fences of the tested code go into a Trace, and can be undone.
// Several processes may have it: each has a Pmem of its own, whose number is in the trace. Any
// thread may store; the rest is for one thread, while no other stores.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "pmem/pmem.h"
#include "testing/trace.h"
#include "testing/undo_memory.h"

namespace pcache {

class PmemSim {
 public:
  explicit PmemSim(uint64_t size_bytes) : memory_(size_bytes) {}

  std::unique_ptr<Pmem> make_pmem(uint32_t process = 0) {
    while (processes_.size() <= process)
      processes_.push_back({this, static_cast<uint32_t>(processes_.size())});
    return std::make_unique<Pmem>(memory_.data(), memory_.size_bytes(), &kOps,
                                  &processes_[process]);
  }
  UndoMemory& memory() { return memory_; }
  // Where events go from now on; nullptr: they are dropped.
  void set_trace(Trace* trace) { trace_ = trace; }

  // Reads of the 4 KiB page around `off` raise SIGBUS, until a store to it, which leaves zeros
  // around the stored bytes, or until heal_all(), which restores its content.
  void poison(uint64_t off);
  void heal_all();

  // Called before each store, flush of lines and fence, by the thread that does it, with no lock
  // held.
  void set_interleave(std::function<void(uint32_t process)> interleave) {
    interleave_ = std::move(interleave);
  }
  // Asked before each store of more than a word: so many of its bytes are stored first, and others
  // may run before the rest. 0: all is stored at once.
  void set_tear(std::function<size_t(uint64_t off, size_t len_bytes)> tear) {
    tear_ = std::move(tear);
  }

 private:
  struct Process {
    PmemSim* sim;
    uint32_t number;
  };
  static void copy(void* self, std::byte* dst, const void* src, size_t len_bytes);
  static void fence(void* self);
  static void fence_threads(void* self);
  static void flush(void* self, const std::byte* at, size_t len_bytes);
  void store(uint32_t process, uint64_t off, const std::byte* src, size_t len_bytes);
  void add(uint32_t process, TraceEvent::Kind kind);
  void unmap_poison(uint64_t page);
  static const PersistOps kOps;

  UndoMemory memory_;
  Trace* trace_ = nullptr;
  std::mutex mu_;                                        // gives memory and trace the same order
  std::map<uint64_t, std::vector<std::byte>> poisoned_;  // page, and its content
  std::function<void(uint32_t)> interleave_;
  std::function<size_t(uint64_t, size_t)> tear_;
  std::deque<Process> processes_;
};

}  // namespace pcache
