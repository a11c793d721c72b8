// SPDX-License-Identifier: GPL-2.0-or-later
// PmemSim: pmem in memory. Stores and fences of the tested code go into a Trace, and can be undone.
// Any thread may store; the rest is for one thread, while no other stores.
#pragma once

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

  std::unique_ptr<Pmem> make_pmem() {
    return std::make_unique<Pmem>(memory_.data(), memory_.size_bytes(), &kOps, this);
  }
  UndoMemory& memory() { return memory_; }
  // Where events go from now on; nullptr: they are dropped.
  void set_trace(Trace* trace) { trace_ = trace; }

  // Reads of the 4 KiB page around `off` raise SIGBUS, until a store to it, which leaves zeros
  // around the stored bytes, or until heal_all(), which restores its content.
  void poison(uint64_t off);
  void heal_all();

  // Called before each store and fence, by the thread that does it, with no lock held.
  void set_interleave(std::function<void()> interleave) { interleave_ = std::move(interleave); }

 private:
  static void copy(void* self, std::byte* dst, const void* src, size_t len_bytes);
  static void fence(void* self);
  static void fence_threads(void* self);
  void unmap_poison(uint64_t page);
  static const PersistOps kOps;

  UndoMemory memory_;
  Trace* trace_ = nullptr;
  std::mutex mu_;                                        // gives memory and trace the same order
  std::map<uint64_t, std::vector<std::byte>> poisoned_;  // page, and its content
  std::function<void()> interleave_;
};

}  // namespace pcache
