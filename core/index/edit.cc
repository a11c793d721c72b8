// SPDX-License-Identifier: GPL-2.0-or-later
#include "index/edit.h"

#include "base/check.h"

namespace pcache::index_impl {

RangeEdit::RangeEdit(Index& index, const Extent& extent)
    : index_(index), range_(range_of(extent.off)), stripe_(index.stripe_of(range_)) {
  PCACHE_CHECK(extent.len > 0 && extent.end() <= index.device_bytes_.known_bytes());
  PCACHE_CHECK(range_ == range_of(extent.end() - 1));
  PCACHE_CHECK((extent.off | extent.len) % kSectorBytes == 0);
  first_sector_ = static_cast<uint32_t>(extent.off % kRangeBytes / kSectorBytes);
  end_sector_ = first_sector_ + static_cast<uint32_t>(extent.len / kSectorBytes);
  shard_handle_ = index.directory_[range_].load(std::memory_order_relaxed);
  shard_ = shard_handle_ != 0 ? index.shard(shard_handle_) : nullptr;
}

bool RangeEdit::is_split(uint32_t page) const {
  const uint32_t block = page / kSlotsPerBlock;
  if (!holds_page_block(block)) return false;
  const Word* slots = index_.block(shard_->block[block].load(std::memory_order_relaxed));
  return Slot{slots[page % kSlotsPerBlock].load(std::memory_order_relaxed)}.is_split();
}

bool RangeEdit::prepare(bool creates) {
  if (shard_ == nullptr && !creates) return true;
  const uint32_t first_page = first_sector_ / kSectorsPerPage;
  const uint32_t last_page = (end_sector_ - 1) / kSectorsPerPage;
  const bool first_cut = first_sector_ % kSectorsPerPage != 0;
  const bool last_cut = end_sector_ % kSectorsPerPage != 0;
  const bool one_page = first_page == last_page;
  uint32_t blocks = 0;
  if ((first_cut || (last_cut && one_page)) && !is_split(first_page)) ++blocks;
  if (last_cut && !one_page && !is_split(last_page)) ++blocks;
  const uint32_t last_block = last_page / kSlotsPerBlock;
  for (uint32_t block = first_page / kSlotsPerBlock; creates && block <= last_block; ++block)
    blocks += holds_page_block(block) ? 0 : 1;
  constexpr auto kClaim = Arena::Claim::kOrdinary;
  if (blocks != 0 && !index_.blocks_.ensure(stripe_.blocks, blocks, kClaim)) return false;
  return shard_ != nullptr || index_.shards_.ensure(stripe_.shards, 1, kClaim);
}

void RangeEdit::new_shard() {
  shard_handle_ = index_.shards_.take(stripe_.shards);
  shard_ = index_.shard(shard_handle_);
  PCACHE_DCHECK(shard_->used_blocks == 0);
  Stripe::add(stripe_.memory_bytes, sizeof(Shard));
}

Word* RangeEdit::new_page_block(uint32_t block) {
  const uint32_t handle = index_.blocks_.take(stripe_.blocks);
  Word* const page_slots = index_.block(handle);
  for (uint32_t slot = 0; slot < kSlotsPerBlock; ++slot)
    page_slots[slot].store(0, std::memory_order_release);
  shard_->block[block].store(handle, std::memory_order_release);
  ++shard_->used_blocks;
  Stripe::add(stripe_.memory_bytes, int64_t{1} << index_.block_shift_);
  return page_slots;
}

// Makes the split page a whole one again if its sectors are one piece.
void RangeEdit::join(Word* page_slots, uint32_t slot) {
  const uint32_t handle = index_.load_cell(page_slots, slot).slot.handle();
  const Word* const sector_slots = index_.block(handle);
  const Cell first = index_.load_cell(sector_slots, 0);
  for (uint32_t sector = 1; sector < kSectorsPerPage; ++sector)
    if (!first.continued_by(index_.load_cell(sector_slots, sector), sector)) return;
  index_.store_cell(page_slots, slot, first);
  free_block(handle);
}

void RangeEdit::free_block_if_empty(uint32_t block, const Word* page_slots) {
  for (uint32_t slot = 0; slot < kSlotsPerBlock; ++slot)
    if (!Slot{page_slots[slot].load(std::memory_order_relaxed)}.is_empty()) return;
  const uint32_t handle = shard_->block[block].load(std::memory_order_relaxed);
  shard_->block[block].store(kNoBlock, std::memory_order_release);
  PCACHE_CHECK(shard_->used_blocks > 0);
  --shard_->used_blocks;
  free_block(handle);
}

void RangeEdit::free_block(uint32_t handle) {
  index_.blocks_.give(stripe_.blocks, handle);
  Stripe::add(stripe_.memory_bytes, -(int64_t{1} << index_.block_shift_));
}

void RangeEdit::free_shard() {
  index_.shards_.give(stripe_.shards, shard_handle_);
  Stripe::add(stripe_.memory_bytes, -static_cast<int64_t>(sizeof(Shard)));
}

}  // namespace pcache::index_impl
