// SPDX-License-Identifier: GPL-2.0-or-later
// Prefault: gets the pages of a mapping into the page table before they are needed.
//
// The first touch of a page costs as much as storing it, and a log touches ever new pages: a
// benchmark would measure that. In a virtual machine whose hypervisor keeps page tables of its own
// a page that is in ours is no more than half of it: its first use costs again (6 us for 4 KiB, as
// measured; until a log of 2 GiB had come round once, writes went at a tenth of their speed). So
// each page is also read. Prefaulting only helps and changes no content: page faults do later what
// it did not, so there are no errors.
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
  // Stops the thread, after one madvise() at most.
  ~Prefault();
  Prefault(const Prefault&) = delete;
  Prefault& operator=(const Prefault&) = delete;

  // Makes all pages before it returns.
  void run();
  // The same in a thread of its own, which handles no signal but SIGBUS. Call it once.
  void start();
  // Any thread.
  uint64_t pages_read() const { return pages_read_.load(std::memory_order_relaxed); }

 private:
  void read_pages(uint64_t end);

  std::byte* const base_;
  const uint64_t size_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> pages_read_{0};
  std::thread thread_;
};

}  // namespace pcache
