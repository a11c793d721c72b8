// SPDX-License-Identifier: GPL-2.0-or-later
// RangeEdit: one change of the index, page by page, under the stripe lock. Private to index/.
//
// An operation `Op` says what becomes of a cell; RangeEdit changes the structure. It splits a page
// that is changed in part, and joins a page whose sectors are one piece again, or all empty. It
// makes missing blocks, frees empty ones, keeps the counters, and holds the sequence odd meanwhile.
//
//   static constexpr bool kCreates         changes empty cells, too
//   static constexpr bool kPrepared        run() comes after a prepare() that was true
//   bool wants(Cell old, uint32_t at)      whether it changes the cell `at` sectors into the extent
//   Cell apply(Cell old, uint32_t at, uint32_t n)   the new cell of the n sectors that start there
//   Cell without_memory(Cell page)         the new cell of a whole page that should be split, if
//                                          even the reserve is used up (not if kPrepared)
#pragma once

#include <algorithm>

#include "index/index.h"

namespace pcache::index_impl {

class RangeEdit {
 public:
  // Checks that the index can take `extent`.
  RangeEdit(Index& index, const Extent& extent);

  // Gets all memory that the operation can need. False: no memory, nothing changed.
  template <class Op>
  bool prepare() {
    return prepare(Op::kCreates);
  }

  template <class Op>
  void run(Op& op);

 private:
  static constexpr uint32_t kNoBlock = 0;

  bool prepare(bool creates);
  bool is_split(uint32_t page) const;
  bool holds_page_block(uint32_t block) const {
    return shard_ != nullptr && shard_->block[block].load(std::memory_order_relaxed) != kNoBlock;
  }

  // Changes sectors [first_sector, end_sector) of the range, all in one block, or in one page.
  template <class Op>
  void edit_block(Op& op, Word* page_slots, uint32_t first_sector, uint32_t end_sector);
  template <class Op>
  void edit_page(Op& op, Word* page_slots, uint32_t first_sector, uint32_t end_sector);
  struct PartOfPage {
    uint32_t first_in_page, first_in_extent, sectors;  // sectors
  };
  template <class Op>
  void split_page(Op& op, Word* page_slots, uint32_t slot, Cell page, const PartOfPage& part);
  // Changes the slot of a page or of a sector, which stands for `sectors` sectors of the extent.
  template <class Op>
  bool edit_cell(Op& op, Word* slots, uint32_t slot, uint32_t first_in_extent, uint32_t sectors);
  void replace(Word* slots, uint32_t slot, Cell old, Cell changed, uint32_t sectors);
  void count(Cell old, Cell changed, uint32_t sectors);
  template <class Op>
  uint32_t new_sector_block();

  void new_shard();
  Word* new_page_block(uint32_t block);
  void join(Word* page_slots, uint32_t slot);
  void free_block_if_empty(uint32_t block, const Word* page_slots);
  void free_block(uint32_t handle);
  void free_shard();

  Index& index_;
  const uint64_t range_;
  Stripe& stripe_;
  uint32_t first_sector_;  // of the range
  uint32_t end_sector_;
  uint32_t shard_handle_;
  Shard* shard_;
  int64_t mapped_delta_ = 0, dirty_delta_ = 0;
};

template <class Op>
void RangeEdit::run(Op& op) {
  if (shard_ == nullptr) {
    if constexpr (!Op::kCreates) return;
    new_shard();
  }
  const uint64_t opened = shard_->open();
  if constexpr (Op::kCreates)
    index_.directory_[range_].store(shard_handle_, std::memory_order_release);
  constexpr uint32_t kBlockSectors = kSlotsPerBlock * kSectorsPerPage;
  for (uint32_t sector = first_sector_; sector < end_sector_;) {
    const uint32_t block = sector / kBlockSectors;
    const uint32_t block_end = std::min(end_sector_, (block + 1) * kBlockSectors);
    const uint32_t handle = shard_->block[block].load(std::memory_order_relaxed);
    Word* page_slots = handle != kNoBlock ? index_.block(handle) : nullptr;
    if constexpr (Op::kCreates) {
      if (page_slots == nullptr) page_slots = new_page_block(block);
      edit_block(op, page_slots, sector, block_end);
    } else if (page_slots != nullptr) {
      edit_block(op, page_slots, sector, block_end);
      free_block_if_empty(block, page_slots);
    }
    sector = block_end;
  }
  if (mapped_delta_ != 0) Stripe::add(stripe_.mapped_sectors, mapped_delta_);
  if (dirty_delta_ != 0) Stripe::add(stripe_.dirty_sectors, dirty_delta_);
  if (shard_->used_blocks == 0) index_.directory_[range_].store(0, std::memory_order_release);
  shard_->close(opened);
  if (shard_->used_blocks == 0) free_shard();
}

template <class Op>
void RangeEdit::edit_block(Op& op, Word* page_slots, uint32_t first_sector, uint32_t end_sector) {
  while (first_sector < end_sector) {
    const uint32_t next_page = (first_sector / kSectorsPerPage + 1) * kSectorsPerPage;
    const uint32_t page_end = std::min(end_sector, next_page);
    edit_page(op, page_slots, first_sector, page_end);
    first_sector = page_end;
  }
}

template <class Op>
void RangeEdit::edit_page(Op& op, Word* page_slots, uint32_t first_sector, uint32_t end_sector) {
  const uint32_t slot = first_sector / kSectorsPerPage % kSlotsPerBlock;
  const uint32_t first_in_page = first_sector % kSectorsPerPage;
  const uint32_t first_in_extent = first_sector - first_sector_;
  const uint32_t sectors = end_sector - first_sector;
  const Cell page = index_.load_cell(page_slots, slot);
  if (page.slot.is_split()) {
    Word* const sector_slots = index_.block(page.slot.handle());
    bool changed = false;
    for (uint32_t i = 0; i < sectors; ++i)
      changed |= edit_cell(op, sector_slots, first_in_page + i, first_in_extent + i, 1);
    if (changed) join(page_slots, slot);
    return;
  }
  if (sectors == kSectorsPerPage)
    edit_cell(op, page_slots, slot, first_in_extent, sectors);
  else
    split_page(op, page_slots, slot, page, {first_in_page, first_in_extent, sectors});
}

// Only `part` of a page in one piece is to be changed: the page gets a slot for each sector.
template <class Op>
void RangeEdit::split_page(Op& op, Word* page_slots, uint32_t slot, Cell page,
                           const PartOfPage& part) {
  const Cell old = page.after(part.first_in_page);
  if (!op.wants(old, part.first_in_extent)) return;
  const uint32_t handle = new_sector_block<Op>();
  if (handle == kNoBlock) {
    if constexpr (!Op::kPrepared)
      replace(page_slots, slot, page, op.without_memory(page), kSectorsPerPage);
    return;
  }
  const Cell changed = op.apply(old, part.first_in_extent, part.sectors);
  Word* const sector_slots = index_.block(handle);
  for (uint32_t sector = 0; sector < kSectorsPerPage; ++sector) {
    const uint32_t in_part = sector - part.first_in_page;  // wraps round for a sector before it
    const Cell cell = in_part < part.sectors ? changed.after(in_part) : page.after(sector);
    index_.store_cell(sector_slots, sector, cell);
  }
  count(old, changed, part.sectors);
  index_.store_cell(page_slots, slot, Cell{Slot::split(handle), {}});
  join(page_slots, slot);
}

template <class Op>
bool RangeEdit::edit_cell(Op& op, Word* slots, uint32_t slot, uint32_t first_in_extent,
                          uint32_t sectors) {
  const Cell old = index_.load_cell(slots, slot);
  if (!op.wants(old, first_in_extent)) return false;
  replace(slots, slot, old, op.apply(old, first_in_extent, sectors), sectors);
  return true;
}

template <class Op>
uint32_t RangeEdit::new_sector_block() {
  if constexpr (!Op::kPrepared) {
    if (!index_.blocks_.ensure(stripe_.blocks, 1, Arena::Claim::kFromReserve)) return kNoBlock;
  }
  Stripe::add(stripe_.memory_bytes, int64_t{1} << index_.block_shift_);
  return index_.blocks_.take(stripe_.blocks);
}

inline void RangeEdit::count(Cell old, Cell changed, uint32_t sectors) {
  if (old.slot.counts_like(changed.slot)) return;
  const auto n = static_cast<int32_t>(sectors);
  mapped_delta_ += n * (int{changed.slot.is_mapped()} - int{old.slot.is_mapped()});
  dirty_delta_ += n * (int{changed.slot.is_dirty()} - int{old.slot.is_dirty()});
}

inline void RangeEdit::replace(Word* slots, uint32_t slot, Cell old, Cell changed,
                               uint32_t sectors) {
  count(old, changed, sectors);
  index_.store_cell(slots, slot, changed);
}

}  // namespace pcache::index_impl
