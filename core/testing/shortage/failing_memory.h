// SPDX-License-Identifier: GPL-2.0-or-later
// FailingMemory: lets allocations of this thread fail from the N-th on, in a test program that
// refers to it: operator new, and what is linked with -Wl,--wrap (see CMakeLists.txt). It is
// deterministic if the test has one thread.
#pragma once

#include <cstdint>
#include <limits>

namespace pcache {

namespace failing_memory {

// In the header, so that code which only uses PassAllocations does not link the operator new.
inline thread_local bool t_armed = false;
inline thread_local uint64_t t_pass = 0, t_fail = 0, t_failed = 0, t_seen = 0;

bool fails();  // the allocation that is asked for now

}  // namespace failing_memory

// While it lives: `pass` allocations succeed, then `fail` fail, then all succeed.
class FailingMemory {
 public:
  static constexpr uint64_t kAll = std::numeric_limits<uint64_t>::max();

  explicit FailingMemory(uint64_t pass, uint64_t fail = kAll);
  ~FailingMemory() { failing_memory::t_armed = false; }
  FailingMemory(const FailingMemory&) = delete;
  FailingMemory& operator=(const FailingMemory&) = delete;
};

// Of this thread's last FailingMemory: how many allocations were asked for, and failed.
inline uint64_t allocations_seen() { return failing_memory::t_seen; }
inline uint64_t allocations_failed() { return failing_memory::t_failed; }

// For simulators, which are not under test: their allocations succeed and do not count.
class PassAllocations {
 public:
  PassAllocations() : armed_(failing_memory::t_armed) { failing_memory::t_armed = false; }
  ~PassAllocations() { failing_memory::t_armed = armed_; }
  PassAllocations(const PassAllocations&) = delete;
  PassAllocations& operator=(const PassAllocations&) = delete;

 private:
  const bool armed_;
};

}  // namespace pcache
