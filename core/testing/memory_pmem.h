// SPDX-License-Identifier: GPL-2.0-or-later
// MemoryPmem: a Pmem over plain memory that keeps a journal of every store and fence, and can be
// "crashed": a second MemoryPmem as it would look had only some of the stores reached the media.
//
// The memory is a private mapping of an unnamed file (the base). The base holds the state at the
// last checkpoint(), so a crash image is one more mapping of it and costs nothing but the pages it
// touches. Any thread may store (the journal has its lock); everything else: one thread.
#pragma once

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <type_traits>
#include <vector>

#include "pmem/pmem.h"

namespace pcache {

struct PmemEvent {
  bool fence = false;      // else a store
  bool unflushed = false;  // a store that no fence makes durable; see mutants.h
  MediaOff off;
  std::vector<std::byte> bytes;
  bool covers(MediaOff at) const { return !fence && off.v <= at.v && at.v < off.v + bytes.size(); }
};
using Journal = std::vector<PmemEvent>;

// A store, or a part of one, that a crash lets through.
struct KeptStore {
  MediaOff off;
  std::span<const std::byte> bytes;
};

class MemoryPmem {
 public:
  explicit MemoryPmem(uint64_t size_bytes);  // zeros
  ~MemoryPmem();
  MemoryPmem(const MemoryPmem&) = delete;
  MemoryPmem& operator=(const MemoryPmem&) = delete;

  Pmem& pmem() { return pmem_; }
  std::unique_ptr<Pmem> make_pmem();  // one more over the same memory and journal
  uint64_t size_bytes() const { return size_; }

  template <typename T>
  T peek(MediaOff off) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    memcpy(&value, base_ + off.v, sizeof value);
    return value;
  }
  const std::byte* data() const { return base_; }
  // Behind the back of Pmem: in no journal, and in crash images only after a checkpoint().
  void poke(MediaOff off, const void* bytes, size_t len_bytes);
  template <typename T>
  void poke(MediaOff off, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    poke(off, &value, sizeof value);
  }
  void flip_bit(MediaOff off, unsigned bit = 0);
  // The 4 KiB page around `off` raises SIGBUS until it is stored to.
  void make_unreadable(MediaOff off);
  // Its page raises SIGBUS for good: loads fail, and what is stored to it is lost.
  void make_bad(MediaOff off);
  // From now on a store kills the test.
  void forbid_stores();
  void allow_stores();

  // Called before each store, with its length; from the thread that stores.
  void set_on_store(std::function<void(size_t len_bytes)> on_store) {
    on_store_ = std::move(on_store);
  }
  // Off: no journal and no lock, so that the journal's lock does not hide races from tsan.
  void set_recording(bool on) { recording_ = on; }
  const Journal& journal() const { return journal_; }
  // What is there now becomes the state that crash images start from; the journal is emptied.
  void checkpoint();
  std::unique_ptr<MemoryPmem> crash_image(std::span<const KeptStore> kept) const;

 private:
  MemoryPmem(uint64_t size_bytes, int base_fd);
  static void copy(void* self, std::byte* dst, const void* src, size_t len_bytes);
  static void fence(void* self);
  void mend(uint64_t off, uint64_t len);
  template <typename Visit>
  void each_good_part(uint64_t off, uint64_t len, Visit visit) const;
  void store_good_part(uint64_t off, const std::byte* src, uint64_t len);
  void map_empty(uint64_t page);
  static const PersistOps kOps;

  const uint64_t size_;
  const int base_fd_;
  std::byte* const base_;
  std::function<void(size_t)> on_store_;
  bool recording_ = true;
  std::mutex mu_;
  Journal journal_;
  std::vector<std::pair<uint64_t, uint64_t>> poked_;
  std::set<uint64_t> unreadable_, bad_;  // pages
  Pmem pmem_;
};

}  // namespace pcache
