// SPDX-License-Identifier: GPL-2.0-or-later
// Prefault: gets the pages of a mapping into the page table before they are needed.
//
// The first touch of a page costs as much as storing it, and a log touches ever new pages: a
// benchmark would measure that. Prefaulting only helps and changes no content: page faults do later
// what it did not, so there are no errors.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace pcache {

class Prefault {
 public:
  // The mapping must be writable and outlive the object.
  Prefault(std::byte* base, uint64_t size_bytes) : base_(base), size_(size_bytes) {}
  // Stops the thread, after at most one piece.
  ~Prefault();
  Prefault(const Prefault&) = delete;
  Prefault& operator=(const Prefault&) = delete;

  // Makes all pages before it returns.
  void run();
  // The same in a thread of its own, which handles no signal. Call it once.
  void start();

 private:
  std::byte* const base_;
  const uint64_t size_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace pcache
