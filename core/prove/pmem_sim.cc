// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/pmem_sim.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace pcache {

const PersistOps PmemSim::kOps = {"simulated", &PmemSim::copy, &PmemSim::fence, [] { return true; },
                                  &PmemSim::fence_threads};

namespace {

bool left_unflushed() {
#ifdef PCACHE_MUTANTS
  return mutants::unflushed();
#else
  return false;
#endif
}

}  // namespace

void PmemSim::copy(void* self, std::byte* dst, const void* src, size_t len_bytes) {
  auto& sim = *static_cast<PmemSim*>(self);
  if (sim.interleave_) sim.interleave_();
  const auto off = static_cast<uint64_t>(dst - sim.memory_.data());
  std::lock_guard lock(sim.mu_);
  if (!sim.poisoned_.empty())
    for (uint64_t page = off / kPageBytes * kPageBytes; page < off + len_bytes;
         page += kPageBytes) {
      if (!sim.poisoned_.contains(page)) continue;
      sim.unmap_poison(page);
      static constexpr std::byte kZeros[kPageBytes] = {};
      sim.memory_.write(page, kZeros, kPageBytes);
    }
  sim.memory_.write(off, src, len_bytes);
  if (!sim.trace_) return;
  sim.trace_->add(left_unflushed() ? TraceEvent::Kind::kUnflushed : TraceEvent::Kind::kStore, off,
                  src, len_bytes);
}

void PmemSim::fence(void* self) {
  auto& sim = *static_cast<PmemSim*>(self);
  if (sim.interleave_) sim.interleave_();
  if (sim.trace_) sim.trace_->add(TraceEvent::Kind::kFence);
}

void PmemSim::fence_threads(void* self) {
  auto& sim = *static_cast<PmemSim*>(self);
  if (sim.interleave_) sim.interleave_();
  if (sim.trace_) sim.trace_->add(TraceEvent::Kind::kFenceThreads);
}

// A page behind the end of an empty file raises SIGBUS, not SIGSEGV.
void PmemSim::poison(uint64_t off) {
  const uint64_t page = off / kPageBytes * kPageBytes;
  const std::byte* content = memory_.data() + page;
  if (!poisoned_.emplace(page, std::vector<std::byte>(content, content + kPageBytes)).second)
    return;
  static const int empty = memfd_create("pcache-poison", MFD_CLOEXEC);
  PCACHE_CHECK(mmap(memory_.data() + page, kPageBytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_FIXED, empty, 0) != MAP_FAILED);
}

void PmemSim::heal_all() {
  while (!poisoned_.empty()) unmap_poison(poisoned_.begin()->first);
}

void PmemSim::unmap_poison(uint64_t page) {
  PCACHE_CHECK(mmap(memory_.data() + page, kPageBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
  const auto poisoned = poisoned_.find(page);
  memcpy(memory_.data() + page, poisoned->second.data(), kPageBytes);
  poisoned_.erase(poisoned);
}

}  // namespace pcache
