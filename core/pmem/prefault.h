// SPDX-License-Identifier: GPL-2.0-or-later
// Prefault: gets the pages of a mapping into the page table before they are needed, in pages of
// 2 MiB if it may.
//
// The first touch of a page costs as much as storing it, and a log touches ever new pages: a
// benchmark would measure that. In a virtual machine whose hypervisor keeps page tables of its own
// a page that is in ours is no more than half of it: its first use costs again (6 us for 4 KiB, as
// measured; until a log of 2 GiB had come round once, writes went at a tenth of their speed). So
// each page is also read. Prefaulting only helps and changes no content: page faults do later what
// it did not, so there are no errors.
//
// Huge pages are made of what the file has (MADV_COLLAPSE, from Linux 6.1 on, which asks no setting
// of transparent huge pages): the kernel copies the pages into one of 2 MiB, beside requests, too.
// It is in the file: whoever maps it next gets it for less. Where memory is short, or the kernel is
// older, pages of 4 KiB stay.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace pcache {

class Prefault {
 public:
  // The mapping must be writable and outlive the object. With `huge_bytes`, of a file whose pages
  // are all allocated, huge pages are made where whole 2 MiB of it lie at such an address, and
  // their bytes, or those found, added there.
  Prefault(std::byte* base, uint64_t size_bytes, std::atomic<uint64_t>* huge_bytes)
      : base_(base), size_(size_bytes), huge_bytes_(huge_bytes) {}
  // Stops the thread, after two calls of madvise() at most.
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
  bool stopped() const { return stop_.load(std::memory_order_relaxed); }
  void make_huge(uint64_t begin, uint64_t end);
  void read_pages(uint64_t end);

  std::byte* const base_;
  const uint64_t size_;
  std::atomic<uint64_t>* huge_bytes_;  // nullptr: none are made (any more)
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> pages_read_{0};
  std::thread thread_;
};

}  // namespace pcache
