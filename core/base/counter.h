// SPDX-License-Identifier: GPL-2.0-or-later
// Counter: a count of events. Any thread may read it at any time. It orders no memory.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace pcache {

class Counter {
 public:
  // Any thread.
  void add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  // For a counter that one thread alone changes: no locked instruction.
  void add_alone(uint64_t n = 1) { set(load() + n); }
  void set(uint64_t n) { value_.store(n, std::memory_order_relaxed); }
  uint64_t load() const { return value_.load(std::memory_order_relaxed); }
  operator uint64_t() const { return load(); }  // NOLINT: reads as the number it is

 private:
  std::atomic<uint64_t> value_{0};
};

// A struct of counters is listed once, LIST(X) with X(member, name in the status, what it counts)
// for each. From the list come its members, LIST(PCACHE_COUNTER_MEMBER), and the table of them, an
// array of NamedCounter: PCACHE_COUNTER_TABLE(Struct, LIST).
template <typename Counters>
struct NamedCounter {
  const char *name, *text;
  Counter Counters::*member;
};

#define PCACHE_COUNTER_MEMBER(member, name, text) Counter member;
#define PCACHE_COUNTER_NAMED(member, name, text) NamedCounter<Self>{name, text, &Self::member},
#define PCACHE_COUNTER_TABLE(Struct, LIST)         \
  [] {                                             \
    using Self = Struct;                           \
    return std::array{LIST(PCACHE_COUNTER_NAMED)}; \
  }()

}  // namespace pcache
