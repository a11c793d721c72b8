// SPDX-License-Identifier: GPL-2.0-or-later
#include "prove/pmem_sim.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace pcache {

const PersistOps PmemSim::kOps = {"simulated",         &PmemSim::copy,          &PmemSim::fence,
                                  [] { return true; }, &PmemSim::fence_threads, &PmemSim::flush};

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
  const auto& process = *static_cast<Process*>(self);
  PmemSim& sim = *process.sim;
  auto* from = static_cast<const std::byte*>(src);
  auto off = static_cast<uint64_t>(dst - sim.memory_.data());
  if (sim.interleave_) sim.interleave_(process.number);
  if (const size_t first = sim.tear_ ? sim.tear_(off, len_bytes) : 0; first > 0) {
    PCACHE_CHECK(first < len_bytes);
    sim.store(process.number, off, from, first);
    sim.interleave_(process.number);
    off += first, from += first, len_bytes -= first;
  }
  sim.store(process.number, off, from, len_bytes);
}

void PmemSim::store(uint32_t process, uint64_t off, const std::byte* src, size_t len_bytes) {
  std::lock_guard lock(mu_);
  if (!poisoned_.empty())
    for (uint64_t page = off / kPageBytes * kPageBytes; page < off + len_bytes;
         page += kPageBytes) {
      if (!poisoned_.contains(page)) continue;
      unmap_poison(page);
      static constexpr std::byte kZeros[kPageBytes] = {};
      memory_.write(page, kZeros, kPageBytes);
    }
  memory_.write(off, src, len_bytes);
  if (!trace_) return;
  trace_->add(left_unflushed() ? TraceEvent::Kind::kUnflushed : TraceEvent::Kind::kStore, off, src,
              len_bytes, 0, process);
}

void PmemSim::add(uint32_t process, TraceEvent::Kind kind) {
  if (interleave_) interleave_(process);
  if (trace_) trace_->add(kind, 0, nullptr, 0, 0, process);
}

void PmemSim::fence(void* self) {
  const auto& process = *static_cast<Process*>(self);
  process.sim->add(process.number, TraceEvent::Kind::kFence);
}

void PmemSim::fence_threads(void* self) {
  const auto& process = *static_cast<Process*>(self);
  process.sim->add(process.number, TraceEvent::Kind::kFenceThreads);
}

void PmemSim::flush(void* self, const std::byte* at, size_t len_bytes) {
  const auto& process = *static_cast<Process*>(self);
  PmemSim& sim = *process.sim;
  if (sim.interleave_) sim.interleave_(process.number);
  if (sim.trace_)
    sim.trace_->add(TraceEvent::Kind::kFlush, static_cast<uint64_t>(at - sim.memory_.data()),
                    nullptr, len_bytes, 0, process.number);
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
