// SPDX-License-Identifier: GPL-2.0-or-later
// Pmem: one mapped cache device, and the one function through which every media store passes.
//
// Invariants
// - No code outside this class writes to the mapping. What store() wrote is durable after the next
//   fence() of the same thread (see persist.h).
// - Reads go through load(), which reports a bad page instead of dying; store() does likewise.
// - A page to which a store was lost stays bad while the object lives: every later store to it is
//   reported as lost, too, even if the media works again.
// - Any thread may call store() and fence(); the callers order stores to one place. A lock or a
//   fence publishes a store to other threads, a plain release store never does (see persist.h).
// - While the object lives its file is locked against other processes and other opens.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/growing_size.h"
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

// Who else may have the device open. Two of one side exclude each other, and kAlone everybody.
enum class PmemSide : uint8_t {
  kAlone,
  kFront,    // beside a backend: it serves requests
  kBackend,  // beside a front: it has the disk
};

struct PmemOptions {
  std::string path;
  PmemSide side = PmemSide::kAlone;
  std::string persist = "auto";
  bool emulate = false;  // accept a file that is not on a DAX file system
  // With `emulate` only: create or extend the file to this size, never shrink it; 0: leave it. With
  // `read_only`: it must have at least that size.
  uint64_t create_bytes = 0;
  bool keep_sparse = false;  // do not allocate a file's holes: for tools, which change little
  bool read_only = false;    // map for reading; the lock is a shared one, store() is a bug
  bool prefault = false;     // as prefault_beside(), but before open() or make_ready() returns
  bool huge_pages = true;    // prefaulted pages are of 2 MiB, where the kernel makes them
  // Only to look, until make_ready(): mapped for reading, not extended, nothing allocated. Changes
  // that this still makes (a file created, a page of tmpfs made by reading) are undone at the end,
  // unless keep() was called.
  bool provisional = false;
  bool with_room = false;     // takes address space for a file to grow into, see grow()
  bool block_device = false;  // for tools alone: takes a block device, too, as open_block() does
};

class Pmem {
 public:
  // ENOENT, EINVAL (no DAX and not `emulate`, no file or devdax, empty, contradicting options),
  // EBUSY (locked elsewhere), ENOSPC, ENOTSUP (persist method), EACCES and EROFS (cannot be written
  // to). A failed open leaves the file as it was. Warns in `log` if the memory is emulated.
  static Result<std::unique_ptr<Pmem>> open(const PmemOptions& options, const Log& log);
  // A block device, for tools alone: without options, through the page cache; each fence flushes
  // the device (block_mapping.cc). EBUSY: attached, mounted, or open elsewhere.
  static Result<std::unique_ptr<Pmem>> open_block(const std::string& path, bool read_only);
  // Over memory of the caller, for tests and simulators; `ctx` is passed to `ops`. It may grow to
  // `most_bytes`.
  Pmem(std::byte* base, uint64_t size_bytes, const PersistOps* ops, void* ctx,
       uint64_t most_bytes = 0);
  ~Pmem();
  Pmem(const Pmem&) = delete;
  Pmem& operator=(const Pmem&) = delete;

  // After a `provisional` open: maps the file for stores and allocates its holes; `extend`: first
  // extends it to create_bytes. ENOSPC, ENOMEM: without a keep() all changes are undone at the end.
  // Once, while no other thread uses the device; does nothing after other opens.
  Status make_ready(bool extend);
  // Before this only zeros may be stored, where they change nothing. From now on any stores are
  // allowed, and closing undoes nothing.
  void keep();
  uint64_t size_when_ready() const;  // size_bytes() after make_ready(true)
  // Whether its first `len_bytes`, as far as they exist, are zeros. EIO: they cannot be read.
  Result<bool> starts_with_zeros(uint64_t len_bytes) const;

  // Whether a front, or a backend, has the file that the other side has open here. It may come, and
  // go, at any time. Any thread.
  bool front_is_there() const { return is_there(PmemSide::kFront); }
  bool backend_is_there() const { return is_there(PmemSide::kBackend); }

  uint64_t size_bytes() const { return size_; }
  // To which it may grow while it is open; size_bytes(): not at all.
  uint64_t most_bytes() const { return std::max<uint64_t>(most_bytes_, size_); }
  // Of a file: its length now, which others may have changed.
  uint64_t file_bytes() const;
  // Has so many bytes, in whole pages, from now on: up to most_bytes(). Makes the file as long, and
  // allocates its new part, durably. Places keep their address. Others go on meanwhile, in the old
  // part. An error (ENOSPC, ENOMEM, EIO) leaves the size, and the file, as they were. After keep(),
  // one thread at a time.
  Status grow(uint64_t size_bytes);
  PmemKind kind() const { return kind_; }
  const char* persist_name() const { return ops_->name; }

  // The caller ensures `dst + len <= size_bytes()` (numbers from media are checked before). False:
  // one of the pages is bad, now or since earlier: any part may have been stored. The sites are for
  // mutants.h.
  [[nodiscard]] bool store(MediaOff dst, const void* src, size_t len_bytes,
                           [[maybe_unused]] const CodeSite& site = CodeSite::current()) {
    PCACHE_DCHECK(len_bytes <= size_ && dst.v <= size_ - len_bytes);
#ifdef PCACHE_MUTANTS
    std::optional<mutants::Unflushed> unflushed;
    if (mutants::flush_left_out(site)) unflushed.emplace();
#endif
    ops_->copy(ctx_, base_ + dst.v, src, len_bytes);
    // One load, until a store is lost for the first time in this process.
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

  // A fence in every thread: all that any of them has stored is durable. Takes microseconds; only
  // if process_barrier_available().
  void fence_threads([[maybe_unused]] const CodeSite& site = CodeSite::current()) {
#ifdef PCACHE_MUTANTS
    if (mutants::fence_left_out(site)) return;
#endif
    PCACHE_DCHECK(ops_->fence_threads != nullptr || process_barrier_available());
    ops_->fence(ctx_);  // for this thread, which the barrier may leave out
    ops_->fence_threads ? ops_->fence_threads(ctx_) : process_barrier();
  }

  // False: the media could not be read there (EIO for the request).
  [[nodiscard]] bool load(void* dst, MediaOff src, size_t len_bytes) const {
    PCACHE_DCHECK(len_bytes <= size_ && src.v <= size_ - len_bytes);
    return checked_copy(dst, base_ + src.v, len_bytes);
  }

  // Whether all of it can be loaded, and no store to it was lost. Reads all of it.
  [[nodiscard]] bool readable(MediaOff off, uint64_t len_bytes) const;
  // The first page of it to which a store was lost; and how many there are in all.
  std::optional<MediaOff> first_bad_page(MediaOff off, uint64_t len_bytes) const;
  uint64_t bad_pages() const { return bad_pages_->count(); }
  // The length to which the file was cut under its mapping: what was behind is bad.
  std::optional<uint64_t> cut_to_bytes() const;
  const char* path() const;
  // Of a block device: makes durable what was stored, or reports that a part could not be. Others
  // are durable after a fence.
  Status flushed() const;
  // The first byte at or behind `from` that is not in a hole of a sparse file; none: the size.
  uint64_t next_data(uint64_t from) const;

  // Makes the mapping's pages (see prefault.h) in a thread that ends before the Pmem does. Only for
  // tmpfs files that are not kept sparse: real pmem is mapped in large pages, a file on a disk
  // would be rewritten, a sparse one filled. Call it once, while no other thread uses the device.
  void prefault_beside();
  // So much of the mapping has been prefaulted in huge pages. Any thread.
  uint64_t huge_bytes() const;

  // Measures the persist methods at the device's end, some milliseconds for 8 rounds. Stores the
  // content that is there: a crash leaves the media as it was. While no other thread uses it.
  // ENOSPC: the file is sparse there and its file system full. EIO: the media is bad there. EINVAL:
  // the device is too small. Call it before prefault_beside(), which would disturb it.
  Result<Calibration> calibrate(unsigned rounds);
  // From now on these methods store, by the size of the copy; up to kStoreAndFlushBytes flushcache
  // stores, whatever was measured. While no other thread uses the device.
  void use(const std::array<const PersistOps*, Calibration::kClasses>& chosen);

  // Makes what others have stored there, and this thread has seen, durable after its next fence.
  // For a process that goes by what another one stores, or has stored before it was killed: what is
  // seen may be in a CPU's cache alone.
  void flush_seen(MediaOff off, size_t len_bytes, const CodeSite& site = CodeSite::current()) const;
  // The same, with a fence.
  void persist_seen(MediaOff off, size_t len_bytes,
                    const CodeSite& site = CodeSite::current()) const;

  // Asks the CPU to fetch the first line of a later load().
  void prefetch(MediaOff src) const { prefetch_once(base_ + src.v); }
  // Asks for as much as load() fetches before it starts to copy.
  void prefetch(MediaOff src, size_t len_bytes) const {
    const size_t n = std::min(len_bytes, kCopyAheadBytes);
    for (size_t i = 0; i < n; i += kLineBytes) prefetch(src + i);
  }

 private:
  // Allocates the blocks of a range of a sparse file, or ENOSPC. A store into a hole of a full file
  // system would raise SIGBUS.
  Status reserve(MediaOff off, uint64_t len_bytes);

  bool is_there(PmemSide side) const;

  struct Mapping;       // libpmem2 objects and the locked file
  struct BlockMapping;  // of open_block()
  struct BySize {
    std::array<const PersistOps*, Calibration::kClasses> chosen;
    PersistOps ops;  // which choose by size
  };
  explicit Pmem(std::unique_ptr<Mapping> mapping);

  std::byte* base_ = nullptr;
  GrowingSize size_;
  uint64_t most_bytes_ = 0;
  const PersistOps* ops_ = nullptr;
  void* ctx_ = nullptr;
  PmemKind kind_ = PmemKind::kSimulated;
  std::unique_ptr<Mapping> mapping_;
  std::shared_ptr<BlockMapping> block_;
  std::unique_ptr<BadPages> bad_pages_;  // destroyed before the mappings
  std::unique_ptr<BySize> by_size_;      // ctx_, if methods differ by size
};

}  // namespace pcache
