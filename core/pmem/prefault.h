// SPDX-License-Identifier: GPL-2.0-or-later
// Prefault: gets the pages of a mapping into the page table before they are needed.
//
// A first touch of a page costs as much as storing it, and a log touches ever new ones: that would
// be measured instead of the cache. It is a help only and changes no content: what it could not do,
// faults do later, so there are no errors.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace pcache {

class Prefault {
 public:
  // The mapping, which is writable, must outlive the object.
  Prefault(std::byte* base, uint64_t size_bytes) : base_(base), size_(size_bytes) {}
  // The thread gives up, at most a piece later.
  ~Prefault();
  Prefault(const Prefault&) = delete;
  Prefault& operator=(const Prefault&) = delete;

  // All of it, before it returns.
  void run();
  // The same in a thread of its own, in which no signal is handled. Once.
  void start();

 private:
  std::byte* const base_;
  const uint64_t size_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace pcache
