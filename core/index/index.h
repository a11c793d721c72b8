// SPDX-License-Identifier: GPL-2.0-or-later
// Index: where each logical sector lives in the cache. In DRAM only, rebuilt by replay.
//
// Structure: a radix of fan-out 8 under each 4 MiB range of the backing device.
//   directory  one u32 per range -> Shard                      (lazily touched)
//   Shard      sequence counter + 128 u32 -> page Block         (one per range that is not empty)
//   page Block 8 slots of 8 bytes, one per 4 KiB page           (+ 8 check words with data_crc on)
//   a page in several pieces: its slot -> sector Block, 8 slots, one per sector
// A cached page in one piece costs 8 bytes (16 with data_crc). A page has at most 8 pieces, so
// small writes slow down later reads only so far. Slots do not move while their page is used.
//
// Invariants
// - Changes to a range are made under the lock of its stripe (stripe_number()), which the caller
//   holds. The shard's sequence counter is odd while a change is under way.
// - lookup() takes no lock and writes nothing: its result counts only if still_valid() says so
//   afterwards. Blocks and shards are in arenas that are never unmapped and keep their type, so a
//   reader that loses the race reads garbage at worst, never unmapped memory.
// - Slots hold sector-granular positions: offsets, lengths and positions are multiples of 512.
// - Fill tokens mark the sectors of read misses: a fill caches its data only in sectors that still
//   have its token, so it never puts older data over newer (hazard fill-over-newer).
// - A change allocates all that it needs before it changes anything. A change that cannot report an
//   error and must split a page uses a reserve; index.cc says what it does without even that.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/growing_size.h"
#include "base/ids.h"
#include "base/prefetch.h"
#include "base/result.h"
#include "base/thread_annotations.h"
#include "index/arena.h"
#include "index/shard.h"
#include "index/slot.h"

namespace pcache {

// Identifies one fill; never used again. 1 .. 2^60-1.
struct FillToken {
  uint64_t v = 0;
  bool operator==(const FillToken&) const = default;
};

// Where an extent's data is, and its crc. `pos` is the place of the extent's first byte.
struct Location {
  CachePos pos;
  bool clean = false;  // same bytes on the backing device
  uint32_t crc = 0;    // data_crc of the whole extent as it was appended (data_crc on)
  bool zeros = false;  // its data is zeros, and need not be looked at
};

struct Piece {
  enum class Kind : uint8_t { kMiss, kHit, kFill };
  Kind kind = Kind::kMiss;
  bool clean = false;
  bool zeros = false;  // kHit: its data is zeros, and need not be looked at
  Extent extent;
  CachePos pos;  // kHit: of the piece's first byte
  // kHit: the extent as it was appended, which has this piece in it (data_crc off: the piece).
  CachePos whole_pos;
  uint32_t whole_len = 0;
  uint32_t crc = 0;
  FillToken token;  // kFill
};

struct IndexOptions {
  uint64_t device_bytes = 0;  // of the backing device, a multiple of 512
  uint32_t stripes = 1;       // a power of two
  bool with_crc = false;
  uint64_t max_blocks = 0;  // tests only: room for so many blocks; 0: what the device can need
  // That the device may grow to, if there is address space for that; less than device_bytes: it
  // stays.
  uint64_t most_bytes = 0;
};

namespace index_impl {
class RangeEdit;
}

// The right to change the index of a range: its holder has a StripeLock, or an IndexAlone. Only the
// compiler's analysis uses it.
class CAPABILITY("index") IndexTurn {};
inline constexpr IndexTurn index_turn;

// For an index that no other thread has yet: replay, a rescue, tests of one thread.
class SCOPED_CAPABILITY IndexAlone {
 public:
  IndexAlone() ACQUIRE(index_turn) {}
  ~IndexAlone() RELEASE() {}
  IndexAlone(const IndexAlone&) = delete;
  IndexAlone& operator=(const IndexAlone&) = delete;
};

class Index {
 public:
  // EINVAL for options that make no sense, ENOMEM when the address space cannot be reserved.
  static Result<std::unique_ptr<Index>> create(const IndexOptions& options);
  // Takes extents up to `device_bytes`, a multiple of 512, from now on, or further if it does so
  // already. EFBIG: the device may not grow so far; ENOMEM. One thread at a time; others go on
  // below the old end, and go beyond it when they know of this.
  Status grow(uint64_t device_bytes);
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;

  struct Snapshot {
    const void* shard = nullptr;
    uint32_t handle = 0;
    uint64_t seq = 0;
    uint64_t range = 0;
  };

  // Describes `extent` (inside one 4 MiB range) from its start, as pieces in ascending order
  // without gaps. Neighbours are merged if they continue each other (same kind, both clean or both
  // not, contiguous positions; with data_crc also the same whole extent; fills: same token). Stops
  // when `out`, of at least one piece, is full; returns how many. All pieces are of one moment, but
  // maybe of another range if still_valid() says no.
  // Waits (spins) while a change of that range is under way. Any thread, no lock.
  size_t lookup(const Extent& extent, std::span<Piece> out, Snapshot* snapshot) const;
  bool still_valid(const Snapshot& snapshot) const;

  // Ask the CPU to fetch what a change of the page at `off` needs, one level each: the shard, the
  // page's slot and, if the page is split, its sectors' slots. Each reads what the one before has
  // fetched, and waits if it comes too soon. Any thread, no lock.
  void prefetch_shard(uint64_t off) const;
  void prefetch(uint64_t off) const;
  void prefetch_sectors(uint64_t off) const;
  // Call the first two for each of `items`, level by level, so that no fetch waits for another.
  template <typename Items, typename Off>
  void prefetch_each(const Items& items, Off off) const {
    for (const auto& item : items) prefetch_shard(off(item));
    for (const auto& item : items) prefetch(off(item));
  }

  // lookup() of the whole page that `off` is in. True: it is cached in one piece, as data. `page`
  // has its slot, and with data_crc its check word; it counts if still_valid() confirms `snapshot`.
  // False: it is not cached in one piece, or only lookup() can tell.
  using Page = index_impl::Cell;
  bool find_page(uint64_t off, Page* page, Snapshot* snapshot) const;

  // For all below the caller holds the stripe lock of the extent's range; it is inside one range.

  // Maps the whole extent to `location`, whatever was there before. ENOMEM leaves it as it was.
  Status insert(Extent extent, Location location) REQUIRES(index_turn);
  // Puts `token` on every sector of `extent` that is not mapped and carries no other token.
  Status begin_fill(const Extent& extent, FillToken token) REQUIRES(index_turn);
  // Maps the sectors of `extent` that still have `token`. Reports them in `runs`, in ascending
  // order and as long as possible; returns how many. When `runs` is full the other sectors keep
  // their token, for the next call. `location` is for the whole extent and all its data; with
  // data_crc on readers verify that until set_crc() gives each run its own crc. Nothing: no memory,
  // no change.
  std::optional<size_t> finish_fill(const Extent& extent, FillToken token, const Location& location,
                                    std::span<Extent> runs) REQUIRES(index_turn);
  // Removes `token` from the sectors of `extent` that still have it.
  void abandon_fill(const Extent& extent, FillToken token) REQUIRES(index_turn);
  // Makes `run` (mapped contiguously from `pos`) an extent of its own with this crc.
  void set_crc(const Extent& run, CachePos pos, uint32_t crc) REQUIRES(index_turn);
  // Forgets the sectors of `extent` that are still mapped to their place in [pos, pos + len) and
  // are clean: the only copy of a dirty one is here. Returns the bytes forgotten.
  uint64_t remove(const Extent& extent, CachePos pos) REQUIRES(index_turn);
  // Forgets all that `extent` is mapped to. ENOMEM leaves it as it was. For replay.
  Status erase(const Extent& extent) REQUIRES(index_turn);
  // Marks the sectors that are still mapped there clean. Returns the bytes that were dirty before.
  uint64_t mark_clean(const Extent& extent, CachePos pos) REQUIRES(index_turn);

  // Changes to ranges of two stripes may be made at the same time.
  size_t stripes() const { return stripe_mask_ + 1; }

  // Approximate while changes are under way. Bytes.
  uint64_t mapped_bytes() const;
  uint64_t dirty_bytes() const;
  uint64_t memory_bytes() const;  // of the blocks and shards in use

 private:
  friend class index_impl::RangeEdit;
  using Arena = index_impl::Arena;
  using Cell = index_impl::Cell;
  using CheckWord = index_impl::CheckWord;
  using Shard = index_impl::Shard;
  using Slot = index_impl::Slot;
  using Stripe = index_impl::Stripe;
  using Word = index_impl::Word;
  static constexpr uint32_t kSectorsPerPage = index_impl::kSectorsPerPage;
  static constexpr uint32_t kSlotsPerBlock = index_impl::kSlotsPerBlock;

  Index() = default;
  static Result<std::unique_ptr<Index>> try_create(const IndexOptions& options);
  Status reserve(const IndexOptions& options);
  // The most objects that a device of that size can need.
  uint64_t most_blocks(uint64_t device_bytes) const;
  uint64_t most_shards(uint64_t device_bytes) const;
  const Word* page_block_of(uint64_t off) const;  // null: none

  // The fast paths: one whole page, no change of the structure. False / 0: use the general path.
  [[gnu::always_inline]] bool insert_page(uint64_t off, const Location& location);
  [[gnu::always_inline]] size_t lookup_page(uint64_t off, Piece* out, Snapshot* snapshot) const;
  Status insert_any(Extent extent, Location location);
  size_t lookup_any(const Extent& extent, std::span<Piece> out, Snapshot* snapshot) const;
  // The pieces that the shard has for `extent`; does not look at the sequence.
  size_t read_pieces(const Shard& shard, const Extent& extent, std::span<Piece> out) const;

  Shard* shard(uint32_t handle) const { return reinterpret_cast<Shard*>(shards_base_) + handle; }
  Word* block(uint32_t handle) const {
    return reinterpret_cast<Word*>(blocks_base_ + (uint64_t{handle} << block_shift_));
  }
  Cell load_cell(const Word* block, uint32_t i) const {
    Cell cell{{block[i].load(std::memory_order_acquire)}, {}};
    if (with_crc_) cell.check.bits = block[kSlotsPerBlock + i].load(std::memory_order_acquire);
    return cell;
  }
  void store_cell(Word* block, uint32_t i, Cell cell) const {
    if (with_crc_) block[kSlotsPerBlock + i].store(cell.check.bits, std::memory_order_release);
    block[i].store(cell.slot.bits, std::memory_order_release);
  }
  Cell whole_cell(const Extent& extent, const Location& location) const {
    Cell cell{Slot::mapped(location.pos, location.clean, location.zeros), {}};
    if (with_crc_) cell.check = CheckWord::whole(location.crc, extent.len / kSectorBytes);
    return cell;
  }
  void describe(Cell cell, const Extent& extent, Piece* out) const;
  Stripe& stripe_of(uint64_t range) const { return stripes_[stripe_number(range) & stripe_mask_]; }

  std::atomic<uint32_t>* directory_ = nullptr;
  std::byte* shards_base_ = nullptr;
  std::byte* blocks_base_ = nullptr;
  uint32_t block_shift_ = 6;  // log2 of a block's bytes
  bool with_crc_ = false;
  uint64_t stripe_mask_ = 0;
  GrowingSize device_bytes_;
  std::unique_ptr<Stripe[]> stripes_;
  Reservation directory_memory_;
  Arena shards_;
  Arena blocks_;
};

inline Status Index::insert(Extent extent, Location location) {
  if (extent.len == kPageBytes && extent.off % kPageBytes == 0 && insert_page(extent.off, location))
      [[likely]]
    return {};
  return insert_any(extent, location);
}

inline size_t Index::lookup(const Extent& extent, std::span<Piece> out, Snapshot* snapshot) const {
  PCACHE_DCHECK(!out.empty());
  if (extent.len == kPageBytes && extent.off % kPageBytes == 0) [[likely]] {
    const size_t n = lookup_page(extent.off, out.data(), snapshot);
    if (n != 0) [[likely]]
      return n;
  }
  return lookup_any(extent, out, snapshot);
}

inline bool Index::still_valid(const Snapshot& snapshot) const {
  index_impl::load_barrier();
  if (directory_[snapshot.range].load(std::memory_order_acquire) != snapshot.handle) return false;
  return snapshot.handle == 0 ||
         shard(snapshot.handle)->seq.load(std::memory_order_relaxed) == snapshot.seq;
}

inline const Index::Word* Index::page_block_of(uint64_t off) const {
  const uint32_t shard_handle = directory_[range_of(off)].load(std::memory_order_relaxed);
  if (shard_handle == 0) return nullptr;
  const uint32_t b = off / (kPageBytes * kSlotsPerBlock) % Shard::kBlocks;
  const uint32_t handle = shard(shard_handle)->block[b].load(std::memory_order_relaxed);
  return handle != 0 ? block(handle) : nullptr;
}

inline void Index::prefetch_shard(uint64_t off) const {
  const uint32_t shard_handle = directory_[range_of(off)].load(std::memory_order_relaxed);
  if (shard_handle == 0) return;
  const Shard* const s = shard(shard_handle);
  prefetch_to_change(s);
  prefetch_to_change(&s->block[off / (kPageBytes * kSlotsPerBlock) % Shard::kBlocks]);
}

inline void Index::prefetch(uint64_t off) const {
  if (const Word* const words = page_block_of(off)) prefetch_to_change(words);
}

// A slot that changes meanwhile may name no block: the address is only prefetched.
inline void Index::prefetch_sectors(uint64_t off) const {
  const Word* const words = page_block_of(off);
  if (words == nullptr) return;
  const Slot page{words[off / kPageBytes % kSlotsPerBlock].load(std::memory_order_relaxed)};
  if (page.is_split()) prefetch_to_change(block(page.handle()));
}

inline bool Index::insert_page(uint64_t off, const Location& location) {
  PCACHE_DCHECK(off + kPageBytes <= device_bytes_.known_bytes());
  const uint64_t range = range_of(off);
  const uint32_t shard_handle = directory_[range].load(std::memory_order_relaxed);
  if (shard_handle == 0) [[unlikely]]
    return false;
  Shard* const s = shard(shard_handle);
  const uint32_t page = off / kPageBytes % (Shard::kBlocks * kSlotsPerBlock);
  const uint32_t block_handle = s->block[page / kSlotsPerBlock].load(std::memory_order_relaxed);
  if (block_handle == 0) [[unlikely]]
    return false;
  Word* const words = block(block_handle);
  const uint32_t i = page % kSlotsPerBlock;
  const Slot old{words[i].load(std::memory_order_relaxed)};
  if (!old.is_dirty() || location.clean) [[unlikely]] {
    if (old.is_split()) return false;
    // Here, and in no function of its own: a call would have every write save registers.
    Stripe& stripe = stripe_of(range);
    constexpr int64_t kSectors = kSectorsPerPage;
    if (!old.is_mapped()) Stripe::add(stripe.mapped_sectors, kSectors);
    Stripe::add(stripe.dirty_sectors, kSectors * (int{!location.clean} - int{old.is_dirty()}));
  }
  const uint64_t opened = s->open();
  store_cell(words, i, whole_cell({off, kPageBytes}, location));
  s->close(opened);
  return true;
}

inline void Index::describe(Cell cell, const Extent& extent, Piece* out) const {
  // Sets every field of `out`.
  out->extent = extent;
  if (cell.slot.is_mapped()) [[likely]] {
    const CachePos pos = cell.slot.pos();
    out->kind = Piece::Kind::kHit;
    out->clean = cell.slot.clean();
    out->zeros = cell.slot.zeros();
    out->pos = pos;
    out->token = FillToken{};
    if (with_crc_) {
      out->whole_pos = {pos.seg, pos.off - cell.check.delta_bytes()};
      out->whole_len = cell.check.len_bytes();
      out->crc = cell.check.crc();
    } else {
      out->whole_pos = pos;
      out->whole_len = static_cast<uint32_t>(extent.len);
      out->crc = 0;
    }
    return;
  }
  const bool fill = cell.slot.is_fill();
  out->kind = fill ? Piece::Kind::kFill : Piece::Kind::kMiss;
  out->clean = out->zeros = false;
  out->pos = out->whole_pos = CachePos{};
  out->whole_len = out->crc = 0;
  out->token = FillToken{fill ? cell.slot.token() : 0};
}

inline bool Index::find_page(uint64_t off, Page* page, Snapshot* snapshot) const {
  PCACHE_DCHECK(off < device_bytes_.known_bytes());
  const uint64_t range = range_of(off);
  const uint32_t shard_handle = directory_[range].load(std::memory_order_acquire);
  if (shard_handle == 0) [[unlikely]]
    return false;
  const Shard* const s = shard(shard_handle);
  const uint64_t seq = s->seq.load(std::memory_order_acquire);
  const uint32_t b = off / (kPageBytes * kSlotsPerBlock) % Shard::kBlocks;
  const uint32_t block_handle = s->block[b].load(std::memory_order_acquire);
  if (seq % 2 != 0 || block_handle == 0) [[unlikely]]
    return false;
  const Cell cell = load_cell(block(block_handle), off / kPageBytes % kSlotsPerBlock);
  if (!cell.slot.is_data()) return false;
  *page = cell;
  *snapshot = Snapshot{s, shard_handle, seq, range};
  return true;
}

inline size_t Index::lookup_page(uint64_t off, Piece* out, Snapshot* snapshot) const {
  PCACHE_DCHECK(off + kPageBytes <= device_bytes_.known_bytes());
  const uint64_t range = range_of(off);
  const uint32_t shard_handle = directory_[range].load(std::memory_order_acquire);
  if (shard_handle == 0) [[unlikely]]
    return 0;
  const Shard* const s = shard(shard_handle);
  const uint64_t seq = s->seq.load(std::memory_order_acquire);
  const uint32_t page = off / kPageBytes % (Shard::kBlocks * kSlotsPerBlock);
  const uint32_t block_handle = s->block[page / kSlotsPerBlock].load(std::memory_order_acquire);
  if (seq % 2 != 0 || block_handle == 0) [[unlikely]]
    return 0;
  const Cell cell = load_cell(block(block_handle), page % kSlotsPerBlock);
  // A block that was reused meanwhile might show half a page as a whole one.
  if (cell.slot.is_split() || s->seq.load(std::memory_order_relaxed) != seq) [[unlikely]]
    return 0;
  describe(cell, {off, kPageBytes}, out);
  *snapshot = Snapshot{s, shard_handle, seq, range};
  return 1;
}

}  // namespace pcache
