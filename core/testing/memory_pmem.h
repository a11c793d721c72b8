// SPDX-License-Identifier: GPL-2.0-or-later
// MemoryPmem: a Pmem over plain memory with a journal of every store and fence. It can "crash": a
// second MemoryPmem then has the content for the case that only some stores reached the media.
//
// The memory is a private mapping of an unnamed file (the base), which has the state of the last
// checkpoint(). So a crash image is one more mapping of it, and costs only the pages that it
// changes. Any thread may store (the journal has its lock); all else is for one thread.
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
  bool fence = false;      // false: a store
  bool unflushed = false;  // a store that no fence makes durable; see mutants.h
  MediaOff off;
  std::vector<std::byte> bytes;
  size_t flushed_bytes = 0;  // not 0: no store, a flush of what others have stored
  bool killed = false;       // no store: the process ends here
  bool covers(MediaOff at) const { return !fence && off.v <= at.v && at.v < off.v + bytes.size(); }
};
using Journal = std::vector<PmemEvent>;

// A store, or a part of one, that survives a crash.
struct KeptStore {
  MediaOff off;
  std::span<const std::byte> bytes;
};

class MemoryPmem {
 public:
  explicit MemoryPmem(uint64_t size_bytes) : MemoryPmem(size_bytes, size_bytes) {}  // zeros
  // make_pmem() gives `size_bytes`, which may grow to `most_bytes`; pmem() and crash images have
  // all.
  MemoryPmem(uint64_t size_bytes, uint64_t most_bytes);
  ~MemoryPmem();
  MemoryPmem(const MemoryPmem&) = delete;
  MemoryPmem& operator=(const MemoryPmem&) = delete;

  Pmem& pmem() { return pmem_; }
  std::unique_ptr<Pmem> make_pmem();  // another one over the same memory and journal
  uint64_t size_bytes() const { return size_; }
  // Of the Pmems that are made from now on.
  void set_size(uint64_t bytes) { pmem_bytes_ = bytes; }

  template <typename T>
  T peek(MediaOff off) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    memcpy(&value, base_ + off.v, sizeof value);
    return value;
  }
  const std::byte* data() const { return base_; }
  // Stores without Pmem: not in the journal, and in crash images only after a checkpoint().
  void poke(MediaOff off, const void* bytes, size_t len_bytes);
  template <typename T>
  void poke(MediaOff off, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    poke(off, &value, sizeof value);
  }
  void flip_bit(MediaOff off, unsigned bit = 0);
  // The 4 KiB page around `off` raises SIGBUS until it is stored to.
  void make_unreadable(MediaOff off);
  // The page around `off` raises SIGBUS for good: loads fail, and stores to it are lost.
  void make_bad(MediaOff off);
  // From now on a store ends the test.
  void forbid_stores();
  void allow_stores();

  // The process that has stored all this is dead: what it has not fenced can be seen, and is
  // durable only once another one has flushed its lines, and fenced.
  void kill_process();

  // Called before each store, with its length, by the thread that stores.
  void set_on_store(std::function<void(size_t len_bytes)> on_store) {
    on_store_ = std::move(on_store);
  }
  // Off: no journal and no lock, since the journal's lock hides races from tsan.
  void set_recording(bool on) { recording_ = on; }
  const Journal& journal() const { return journal_; }
  // Crash images start from the present content from now on; empties the journal.
  void checkpoint();
  std::unique_ptr<MemoryPmem> crash_image(std::span<const KeptStore> kept) const;

 private:
  MemoryPmem(uint64_t size_bytes, uint64_t most_bytes, int base_fd);
  static void copy(void* self, std::byte* dst, const void* src, size_t len_bytes);
  static void fence(void* self);
  static void flush(void* self, const std::byte* at, size_t len_bytes);
  void mend(uint64_t off, uint64_t len);
  template <typename Visit>
  void each_good_part(uint64_t off, uint64_t len, Visit visit) const;
  void store_good_part(uint64_t off, const std::byte* src, uint64_t len);
  void map_empty(uint64_t page);
  static const PersistOps kOps;

  const uint64_t size_;  // of the memory
  uint64_t pmem_bytes_;
  const int base_fd_;
  std::byte* const base_;
  std::function<void(size_t)> on_store_;
  bool recording_ = true;
  bool has_killed_ = false;  // since the last checkpoint; else there is nobody's to flush
  std::mutex mu_;
  Journal journal_;
  std::vector<std::pair<uint64_t, uint64_t>> poked_;
  std::set<uint64_t> unreadable_, bad_;  // pages
  Pmem pmem_;
};

}  // namespace pcache
