// SPDX-License-Identifier: GPL-2.0-or-later
// Pmem: one mapped cache device, and the one primitive through which every media store passes.
//
// Invariants
// - No code outside this class writes to the mapping. What store() wrote is durable after the next
//   fence() of the same thread (see persist.h).
// - Reads go through load(), which reports a bad page instead of dying; store() does likewise.
// - A page to which a store was lost stays bad while the object lives: every later store to it is
//   reported as lost, too, whatever the media does.
// - store() and fence() may be called from any thread; the callers order stores to one place.
//   A store is published to other threads by a lock or a fence, never by a plain release store
//   (see persist.h).
// - While the object lives its file is locked against other processes and other opens.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/ids.h"
#include "base/log.h"
#include "base/mutants.h"
#include "base/prefetch.h"
#include "base/process_barrier.h"
#include "base/result.h"
#include "pmem/bad_pages.h"
#include "pmem/calibration.h"
#include "pmem/checked_copy.h"
#include "pmem/cpu.h"
#include "pmem/persist.h"

namespace pcache {

enum class PmemKind { kDevdax, kFsdax, kEmulated, kSimulated, kBlock };
const char* pmem_kind_name(PmemKind kind);

struct PmemOptions {
  std::string path;
  std::string persist = "auto";
  bool emulate = false;  // accept a file that is not on a DAX file system
  // With `emulate` only: create or extend the file to this size, never shrink it; 0: as it is. With
  // `read_only`: it must have that size, at least.
  uint64_t create_bytes = 0;
  bool keep_sparse = false;  // do not allocate a file's holes: for tools, which change little
  bool read_only = false;    // map for reading; the lock is a shared one, store() is a bug
  bool prefault = false;     // as prefault_beside(), but before open() or make_ready() returns
  // Only to look, until make_ready(): mapped for reading, not extended, nothing allocated. What was
  // changed all the same (a file created, a page of tmpfs made by reading) is undone unless keep()
  // was called.
  bool provisional = false;
  bool block_device = false;  // for tools alone: a block device is taken, too, by open_block()
};

class Pmem {
 public:
  // ENOENT, EINVAL (no DAX and not `emulate`, no file or devdax, empty, contradicting options),
  // EBUSY (locked elsewhere), ENOSPC, ENOTSUP (persist method), EACCES and EROFS (cannot be written
  // to). A failed open leaves the file as it was. Warns by `log` when the memory is emulated.
  static Result<std::unique_ptr<Pmem>> open(const PmemOptions& options, const Log& log);
  // A block device, for tools alone: as it is, whatever the options, through the page cache, each
  // fence flushes the device (block_mapping.cc). EBUSY: attached, mounted, or open elsewhere.
  static Result<std::unique_ptr<Pmem>> open_block(const std::string& path, bool read_only);
  // Over memory of the caller's, for tests and simulators; `ctx` is handed to `ops`.
  Pmem(std::byte* base, uint64_t size_bytes, const PersistOps* ops, void* ctx);
  ~Pmem();
  Pmem(const Pmem&) = delete;
  Pmem& operator=(const Pmem&) = delete;

  // Of one that was opened `provisional`: extends the file to create_bytes if it is to, maps it for
  // stores and allocates its holes. ENOSPC, ENOMEM: nothing that keep() has not made lasting stays
  // changed. Once, while one thread has the device; nothing to do for others.
  Status make_ready(bool extend);
  // From now on any stores are allowed, until now of zeros where they mean nothing; and closing
  // undoes nothing.
  void keep();
  uint64_t size_when_ready() const;  // what size_bytes() will be then, extended
  // Whether its first bytes, as far as it has them, are zeros. EIO: they cannot be read.
  Result<bool> starts_with_zeros(uint64_t len_bytes) const;

  uint64_t size_bytes() const { return size_; }
  PmemKind kind() const { return kind_; }
  const char* persist_name() const { return ops_->name; }

  // `dst + len <= size_bytes()` is the caller's duty (numbers from media are checked before).
  // False: a page of it is bad, now or before: any part of it may have been stored. The sites are
  // for mutants.h.
  [[nodiscard]] bool store(MediaOff dst, const void* src, size_t len_bytes,
                           [[maybe_unused]] const CodeSite& site = CodeSite::current()) {
    PCACHE_DCHECK(len_bytes <= size_ && dst.v <= size_ - len_bytes);
#ifdef PCACHE_MUTANTS
    std::optional<mutants::Unflushed> unflushed;
    if (mutants::flush_left_out(site)) unflushed.emplace();
#endif
    ops_->copy(ctx_, base_ + dst.v, src, len_bytes);
    // One load for all that ever fails in this process.
    if (!BadPages::any()) [[likely]]
      return true;
    return !bad_pages_->contain(dst.v, len_bytes) || hazard(Hazard::kLostStoreIgnored);
  }
  void fence([[maybe_unused]] const CodeSite& site = CodeSite::current()) {
#ifdef PCACHE_MUTANTS
    if (mutants::fence_left_out(site)) return;
#endif
    ops_->fence(ctx_);
  }

  // A fence in every thread: what any of them has stored is durable. Microseconds; only where
  // process_barrier_available().
  void fence_threads([[maybe_unused]] const CodeSite& site = CodeSite::current()) {
#ifdef PCACHE_MUTANTS
    if (mutants::fence_left_out(site)) return;
#endif
    ops_->fence(ctx_);  // this thread's own: the barrier may leave it out
    ops_->fence_threads ? ops_->fence_threads(ctx_) : process_barrier();
  }

  // False: the media could not be read there (EIO for the request).
  [[nodiscard]] bool load(void* dst, MediaOff src, size_t len_bytes) const {
    PCACHE_DCHECK(len_bytes <= size_ && src.v <= size_ - len_bytes);
    return checked_copy(dst, base_ + src.v, len_bytes);
  }

  // Whether all of it can be loaded, and no store to it was lost. Reads it.
  [[nodiscard]] bool readable(MediaOff off, uint64_t len_bytes) const;
  // The first page with a part of it to which a store was lost; and how many there are altogether.
  std::optional<MediaOff> first_bad_page(MediaOff off, uint64_t len_bytes) const;
  uint64_t bad_pages() const { return bad_pages_->count(); }
  // The file was made shorter than the mapping, to that many bytes: what was behind is bad.
  std::optional<uint64_t> cut_to_bytes() const;
  const char* path() const;
  // Of a block device: makes durable what was stored, or says that some of it could not be. Others
  // are so after a fence.
  Status flushed() const;
  // The first byte at or behind `from` that is not in a hole of a sparse file; the size: none is.
  uint64_t next_data(uint64_t from) const;

  // Makes the mapping's pages (see prefault.h) in a thread that ends before the Pmem does. Only
  // where they are 4 KiB of memory (tmpfs) and all are to be stored to: real pmem is mapped in
  // large pages, a file on a disk would be rewritten, and one that is kept sparse filled. Once,
  // while one thread has the device.
  void prefault_beside();

  // Measures the persist methods at the device's end, some milliseconds for 8 rounds. Stores there
  // what is there: a crash leaves the media as they were. While one thread has the device. ENOSPC:
  // the file is sparse there and its file system full; EIO: the media is bad there; EINVAL:
  // the device is too small. Before prefault_beside(), which would be measured too.
  Result<Calibration> calibrate(unsigned rounds);
  // From now on these methods store, by the size of the copy; what flushcache does not stream it
  // stores itself, whatever was measured for more. While one thread has the device.
  void use(const std::array<const PersistOps*, Calibration::kClasses>& chosen);

  // Asks the CPU to fetch the start of what will be loaded.
  void prefetch(MediaOff src) const { prefetch_once(base_ + src.v); }
  // As much of it as load() asks for before it starts to copy.
  void prefetch(MediaOff src, size_t len_bytes) const {
    const size_t n = std::min(len_bytes, kCopyAheadBytes);
    for (size_t i = 0; i < n; i += kLineBytes) prefetch(src + i);
  }

 private:
  // Of a file that was kept sparse: it gets its space there, or ENOSPC. A store into a hole of a
  // full file system would be SIGBUS.
  Status reserve(MediaOff off, uint64_t len_bytes);

  struct Mapping;       // libpmem2 objects and the locked file
  struct BlockMapping;  // of open_block()
  struct BySize {
    std::array<const PersistOps*, Calibration::kClasses> chosen;
    PersistOps ops;  // that go by it
  };
  explicit Pmem(std::unique_ptr<Mapping> mapping);

  std::byte* base_ = nullptr;
  uint64_t size_ = 0;
  const PersistOps* ops_ = nullptr;
  void* ctx_ = nullptr;
  PmemKind kind_ = PmemKind::kSimulated;
  std::unique_ptr<Mapping> mapping_;
  std::shared_ptr<BlockMapping> block_;
  std::unique_ptr<BadPages> bad_pages_;  // goes before the mappings
  std::unique_ptr<BySize> by_size_;      // what ctx_ is then
};

}  // namespace pcache
