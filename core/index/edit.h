// SPDX-License-Identifier: GPL-2.0-or-later
// RangeEdit: one change of the index, page by page, under the stripe lock. Private to index/.
//
// An operation `Op` says what is to become of a cell; RangeEdit does the structure: splits a page
// that is changed in part, joins it again when its sectors have become one piece (or all empty),
// makes missing blocks, frees empty ones, keeps the counters, and brackets it all with the
// sequence.
//
//   static constexpr bool kCreates         works on what is empty, too
//   static constexpr bool kPrepared        run() comes after a prepare() that was true
//   bool wants(Cell old, uint32_t at)      whether it changes the cell `at` sectors into the extent
//   Cell apply(Cell old, uint32_t at, uint32_t n)   what the n sectors that start there become
//   Cell without_memory(Cell page)         what a whole page becomes that should be split, when
//                                          even the reserve is used up (not when kPrepared)
#pragma once

#include <algorithm>

#include "index/index.h"

namespace pcache::index_impl {

class RangeEdit {
 public:
  // Checks that `extent` is one the index can take.
  RangeEdit(Index& index, const Extent& extent);

  // Gets everything the operation can need. False: no memory, nothing changed.
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
  bool holds_page_block(uint32_t b) const {
    return shard_ != nullptr && shard_->block[b].load(std::memory_order_relaxed) != kNoBlock;
  }

  template <class Op>
  void edit_block(Op& op, Word* words, uint32_t first, uint32_t end);
  template <class Op>
  void edit_page(Op& op, Word* words, uint32_t first, uint32_t end);
  template <class Op>
  bool edit_cell(Op& op, Word* words, uint32_t i, uint32_t at, uint32_t n);
  template <class Op>
  uint32_t new_sector_block();
  void replace(Word* words, uint32_t i, Cell old, Cell changed, int32_t n);

  void new_shard();
  Word* new_page_block(uint32_t b);
  void join(Word* page_words, uint32_t i);
  void free_block_if_empty(uint32_t b, const Word* words);
  void free_block(uint32_t handle);
  void free_shard();

  Index& index_;
  const uint64_t range_;
  Stripe& stripe_;
  uint32_t first_;  // sectors of the range
  uint32_t end_;
  uint32_t shard_handle_;
  Shard* shard_;
  int64_t mapped_delta_ = 0;
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
  for (uint32_t at = first_; at < end_;) {
    const uint32_t b = at / kBlockSectors;
    const uint32_t block_end = std::min(end_, (b + 1) * kBlockSectors);
    const uint32_t handle = shard_->block[b].load(std::memory_order_relaxed);
    Word* words = handle != kNoBlock ? index_.block(handle) : nullptr;
    if constexpr (Op::kCreates) {
      if (words == nullptr) words = new_page_block(b);
      edit_block(op, words, at, block_end);
    } else if (words != nullptr) {
      edit_block(op, words, at, block_end);
      free_block_if_empty(b, words);
    }
    at = block_end;
  }
  if (mapped_delta_ != 0) Stripe::add(stripe_.mapped_sectors, mapped_delta_);
  if (shard_->used_blocks == 0) index_.directory_[range_].store(0, std::memory_order_release);
  shard_->close(opened);
  if (shard_->used_blocks == 0) free_shard();
}

template <class Op>
void RangeEdit::edit_block(Op& op, Word* words, uint32_t first, uint32_t end) {
  while (first < end) {
    const uint32_t page_end = std::min(end, (first / kSectorsPerPage + 1) * kSectorsPerPage);
    edit_page(op, words, first, page_end);
    first = page_end;
  }
}

template <class Op>
void RangeEdit::edit_page(Op& op, Word* words, uint32_t first, uint32_t end) {
  const uint32_t i = first / kSectorsPerPage % kSlotsPerBlock;
  const uint32_t n = end - first;
  uint32_t at = first - first_;
  const Cell page = index_.load_cell(words, i);
  if (page.slot.is_split()) {
    Word* const sectors = index_.block(page.slot.handle());
    bool changed = false;
    for (uint32_t k = first; k < end; ++k)
      changed |= edit_cell(op, sectors, k % kSectorsPerPage, at++, 1);
    if (changed) join(words, i);
    return;
  }
  if (n == kSectorsPerPage) {
    edit_cell(op, words, i, at, n);
    return;
  }
  const Cell old = page.after(first % kSectorsPerPage);
  if (!op.wants(old, at)) return;
  const uint32_t handle = new_sector_block<Op>();
  if (handle == kNoBlock) {
    if constexpr (!Op::kPrepared) replace(words, i, page, op.without_memory(page), kSectorsPerPage);
    return;
  }
  Word* const sectors = index_.block(handle);
  const Cell changed = op.apply(old, at, n);
  for (uint32_t k = 0; k < kSectorsPerPage; ++k) {
    const bool inside = k >= first % kSectorsPerPage && k < first % kSectorsPerPage + n;
    index_.store_cell(sectors, k,
                      inside ? changed.after(k - first % kSectorsPerPage) : page.after(k));
  }
  mapped_delta_ +=
      (int{changed.slot.is_mapped()} - int{old.slot.is_mapped()}) * static_cast<int32_t>(n);
  index_.store_cell(words, i, Cell{Slot::split(handle), {}});
  join(words, i);
}

template <class Op>
bool RangeEdit::edit_cell(Op& op, Word* words, uint32_t i, uint32_t at, uint32_t n) {
  const Cell old = index_.load_cell(words, i);
  if (!op.wants(old, at)) return false;
  replace(words, i, old, op.apply(old, at, n), static_cast<int32_t>(n));
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

inline void RangeEdit::replace(Word* words, uint32_t i, Cell old, Cell changed, int32_t n) {
  mapped_delta_ += (int{changed.slot.is_mapped()} - int{old.slot.is_mapped()}) * n;
  index_.store_cell(words, i, changed);
}

}  // namespace pcache::index_impl
