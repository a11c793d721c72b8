// SPDX-License-Identifier: GPL-2.0-or-later
#include "index/index.h"

#include <bit>
#include <utility>

#include "base/check.h"
#include "index/edit.h"

namespace pcache {

using index_impl::RangeEdit;

namespace {

using index_impl::Cell;
using index_impl::kSectorsPerPage;
using index_impl::Slot;

struct InsertOp {
  static constexpr bool kCreates = true, kPrepared = true;
  const Cell whole;

  bool wants(Cell, uint32_t) const { return true; }
  Cell apply(Cell, uint32_t at, uint32_t) const { return whole.after(at); }
};

struct BeginFillOp {
  static constexpr bool kCreates = true, kPrepared = true;
  const Slot token;

  bool wants(Cell old, uint32_t) const { return old.slot.is_empty(); }
  Cell apply(Cell, uint32_t, uint32_t) const { return {token, {}}; }
};

struct FinishFillOp {
  static constexpr bool kCreates = false, kPrepared = true;
  const Slot token;
  const Cell whole;
  const uint64_t extent_off;
  const std::span<Extent> runs;
  size_t n_runs = 0;

  bool goes_on(uint64_t off) const { return n_runs > 0 && runs[n_runs - 1].end() == off; }
  bool wants(Cell old, uint32_t at) const {
    return old.slot.bits == token.bits &&
           (n_runs < runs.size() || goes_on(extent_off + uint64_t{at} * kSectorBytes));
  }
  Cell apply(Cell, uint32_t at, uint32_t n) {
    const Extent piece{extent_off + uint64_t{at} * kSectorBytes, uint64_t{n} * kSectorBytes};
    if (goes_on(piece.off))
      runs[n_runs - 1].len += piece.len;
    else
      runs[n_runs++] = piece;
    return whole.after(at);
  }
};

struct AbandonFillOp {
  static constexpr bool kCreates = false, kPrepared = false;
  const Slot token;

  bool wants(Cell old, uint32_t) const { return old.slot.bits == token.bits; }
  Cell apply(Cell, uint32_t, uint32_t) const { return {}; }
  // If the fill loses more of its tokens it only caches less.
  Cell without_memory(Cell) const { return {}; }
};

struct SetCrcOp {
  static constexpr bool kCreates = false, kPrepared = false;
  const Cell whole;

  bool wants(Cell old, uint32_t at) const { return old.slot.same_place(whole.after(at).slot); }
  Cell apply(Cell old, uint32_t at, uint32_t) const { return {old.slot, whole.after(at).check}; }
  // The old check word stays true: the data has not moved.
  Cell without_memory(Cell page) const { return page; }
};

struct RemoveOp {
  static constexpr bool kCreates = false, kPrepared = false;
  const Cell start;
  uint64_t sectors = 0;

  bool wants(Cell old, uint32_t at) const {
    return old.slot.clean() && old.slot.same_place(start.after(at).slot);
  }
  Cell apply(Cell, uint32_t, uint32_t n) {
    sectors += n;
    return {};
  }
  // If the page were kept, reads would find what the segment holds next. To forget more than asked
  // for is harmless, as the page is clean.
  Cell without_memory(Cell) {
    sectors += kSectorsPerPage;
    return {};
  }
};

struct EraseOp {
  static constexpr bool kCreates = false, kPrepared = true;

  bool wants(Cell old, uint32_t) const { return old.slot.is_mapped(); }
  Cell apply(Cell, uint32_t, uint32_t) const { return {}; }
};

struct MarkCleanOp {
  static constexpr bool kCreates = false, kPrepared = false;
  const Cell start;
  uint64_t sectors = 0;

  bool wants(Cell old, uint32_t at) const {
    return !old.slot.clean() && old.slot.same_place(start.after(at).slot);
  }
  Cell apply(Cell old, uint32_t, uint32_t n) {
    sectors += n;
    return {{old.slot.bits | Slot::kCleanBit}, old.check};
  }
  // The page stays dirty, so reclaim would not remove it and it would outlive its data. This cannot
  // happen: the arena has room for all that the backing device can need.
  Cell without_memory(Cell page) const { return page; }
};

Cell cell_at(CachePos pos) { return {Slot::mapped(pos, false), {}}; }

uint64_t ranges_of(uint64_t device_bytes) { return range_of(device_bytes - 1) + 1; }
uint64_t directory_bytes(uint64_t device_bytes) {
  return ranges_of(device_bytes) * sizeof(uint32_t);
}
uint64_t slack(size_t stripes, uint32_t object_bytes) {
  return stripes * index_impl::Arena::batch(object_bytes) + 4096;
}

Error no_memory(const Extent& extent) {
  return make_error(ENOMEM, "index: no room for the extent at %llu, %llu bytes",
                    static_cast<unsigned long long>(extent.off),
                    static_cast<unsigned long long>(extent.len));
}

}  // namespace

Result<std::unique_ptr<Index>> Index::create(const IndexOptions& options) {
  if (options.device_bytes == 0 || options.device_bytes % kSectorBytes != 0)
    return make_error(EINVAL, "index: device of %llu bytes, expected a multiple of 512",
                      static_cast<unsigned long long>(options.device_bytes));
  if (!std::has_single_bit(options.stripes))
    return make_error(EINVAL, "index: %u stripes, expected a power of two", options.stripes);
  auto index = try_create(options);
  if (index || index.error().code != ENOMEM) return index;
  // All of it without room to grow: what one part takes for that another may need now.
  IndexOptions least = options;
  least.most_bytes = 0;
  return try_create(least);
}

Result<std::unique_ptr<Index>> Index::try_create(const IndexOptions& options) {
  std::unique_ptr<Index> index(new Index);
  if (Status s = index->reserve(options); !s) return s.error();
  return index;
}

Status Index::reserve(const IndexOptions& options) {
  with_crc_ = options.with_crc;
  block_shift_ = with_crc_ ? 7 : 6;
  stripe_mask_ = options.stripes - 1;
  device_bytes_ = options.device_bytes;
  stripes_ = std::make_unique<Stripe[]>(options.stripes);

  const uint64_t bytes = options.device_bytes, most = std::max(bytes, options.most_bytes);
  const bool few = options.max_blocks != 0;
  const uint64_t blocks = few ? options.max_blocks : most_blocks(bytes);
  Status s = directory_memory_.map(directory_bytes(bytes), directory_bytes(most),
                                   Reservation::Pages::kSmall, "the index's directory");
  if (s)
    s = shards_.create(most_shards(bytes), most_shards(most), sizeof(Shard), "the index's shards");
  if (s)
    s = blocks_.create(blocks, few ? blocks : most_blocks(most), 1u << block_shift_,
                       "the index's blocks");
  if (!s) return s;
  directory_ = reinterpret_cast<std::atomic<uint32_t>*>(directory_memory_.base());
  shards_base_ = shards_.base();
  blocks_base_ = blocks_.base();
  return {};
}

// With those unused in batches and in the reserve.
uint64_t Index::most_blocks(uint64_t device_bytes) const {
  constexpr uint64_t kBlockBytes = uint64_t{kSlotsPerBlock} * kPageBytes;
  return device_bytes / kPageBytes + device_bytes / kBlockBytes + 2 +
         slack(stripes(), 1u << block_shift_);
}

uint64_t Index::most_shards(uint64_t device_bytes) const {
  return ranges_of(device_bytes) + slack(stripes(), sizeof(Shard));
}

Status Index::grow(uint64_t device_bytes) {
  PCACHE_CHECK(device_bytes % kSectorBytes == 0);
  if (device_bytes <= device_bytes_) return {};
  Status s = directory_memory_.grow(directory_bytes(device_bytes));
  if (s) s = shards_.grow(most_shards(device_bytes));
  if (s) s = blocks_.grow(most_blocks(device_bytes));
  if (s) device_bytes_.grow(device_bytes);
  return s;
}

Status Index::insert_any(Extent extent, Location location) {
  RangeEdit edit(*this, extent);
  if (!edit.prepare<InsertOp>()) return no_memory(extent);
  InsertOp op{whole_cell(extent, location)};
  edit.run(op);
  return {};
}

Status Index::begin_fill(const Extent& extent, FillToken token) {
  RangeEdit edit(*this, extent);
  if (!edit.prepare<BeginFillOp>()) return no_memory(extent);
  BeginFillOp op{Slot::fill(token.v)};
  edit.run(op);
  return {};
}

std::optional<size_t> Index::finish_fill(const Extent& extent, FillToken token,
                                         const Location& location, std::span<Extent> runs) {
  RangeEdit edit(*this, extent);
  if (!edit.prepare<FinishFillOp>()) return std::nullopt;
  FinishFillOp op{Slot::fill(token.v), whole_cell(extent, location), extent.off, runs};
  edit.run(op);
  return op.n_runs;
}

void Index::abandon_fill(const Extent& extent, FillToken token) {
  AbandonFillOp op{Slot::fill(token.v)};
  RangeEdit(*this, extent).run(op);
}

void Index::set_crc(const Extent& run, CachePos pos, uint32_t crc) {
  if (!with_crc_) return;
  SetCrcOp op{whole_cell(run, {pos, false, crc})};
  RangeEdit(*this, run).run(op);
}

uint64_t Index::remove(const Extent& extent, CachePos pos) {
  RemoveOp op{cell_at(pos)};
  RangeEdit(*this, extent).run(op);
  return op.sectors * kSectorBytes;
}

Status Index::erase(const Extent& extent) {
  RangeEdit edit(*this, extent);
  if (!edit.prepare<EraseOp>()) return no_memory(extent);
  EraseOp op;
  edit.run(op);
  return {};
}

uint64_t Index::mark_clean(const Extent& extent, CachePos pos) {
  MarkCleanOp op{cell_at(pos)};
  RangeEdit(*this, extent).run(op);
  return op.sectors * kSectorBytes;
}

uint64_t Index::mapped_bytes() const {
  uint64_t sectors = 0;
  for (uint64_t i = 0; i <= stripe_mask_; ++i)
    sectors += stripes_[i].mapped_sectors.load(std::memory_order_relaxed);
  return sectors * kSectorBytes;
}

uint64_t Index::dirty_bytes() const {
  uint64_t sectors = 0;
  for (uint64_t i = 0; i <= stripe_mask_; ++i)
    sectors += stripes_[i].dirty_sectors.load(std::memory_order_relaxed);
  return sectors * kSectorBytes;
}

uint64_t Index::memory_bytes() const {
  uint64_t bytes = 0;
  for (uint64_t i = 0; i <= stripe_mask_; ++i)
    bytes += stripes_[i].memory_bytes.load(std::memory_order_relaxed);
  return bytes;
}

}  // namespace pcache
