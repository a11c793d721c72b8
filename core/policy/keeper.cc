// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/keeper.h"

#include <algorithm>

#include "base/check.h"
#include "base/mutants.h"
#include "policy/page_hash.h"

namespace pcache::policy {

namespace {

constexpr uint64_t kOneMissIn = 64;
constexpr uint64_t kNeighbours = 32;
constexpr uint64_t kMissesOfADraw = 1024;
constexpr uint64_t kReachPart = 4;  // the ghosts remember capacity / 4 misses
constexpr uint64_t kMovesForOne = 2;
constexpr uint64_t kInARowPart = 32;
constexpr uint64_t kLeastInARow = 8;

// Whether chance admits the page. Neighbours that are missed soon after each other are admitted or
// refused together: pages here and there would cut later reads into pieces.
bool is_lucky(uint64_t page, uint64_t miss) {
  const uint64_t draw = page_hash(page / kNeighbours) + miss / kMissesOfADraw;
  return page_hash(draw) % kOneMissIn == 0;
}

}  // namespace

Keeper::Keeper(uint64_t capacity_pages, bool ghosts)
    : capacity_pages_(capacity_pages),
      most_in_a_row_(std::max(kLeastInARow, capacity_pages / kInARowPart)),
      moves_left_(capacity_pages) {
  PCACHE_CHECK(capacity_pages > 0);
  if (ghosts)
    ghosts_ = std::make_unique<GhostList>(std::max<uint64_t>(1, capacity_pages / kReachPart));
}

bool Keeper::admits(Rule rule, uint64_t page, uint64_t hash, uint64_t pages) {
  PCACHE_DCHECK(rule != Rule::kReuse || ghosts_ != nullptr);
  const uint64_t miss = missed_pages_.fetch_add(pages, std::memory_order_relaxed);
  // Also under a rule that does not ask: another one may be next.
  const bool lately = ghosts_ != nullptr && ghosts_->missed(hash, miss);
  if (rule == Rule::kFifo || rule == Rule::kSecondChance) return true;
  if (rule == Rule::kReuse && lately) return true;
  return is_lucky(page, miss);
}

bool Keeper::stays(Rule rule, bool was_hit, uint64_t pages, bool in_a_hurry) {
  if (in_a_hurry) moves_left_ = std::min(moves_left_, most_in_a_row_);
  const bool may_stay =
      (moves_left_ >= pages && moves_in_a_row_ < most_in_a_row_) || hazard(Hazard::kKeptWithoutEnd);
  const bool stays = rule != Rule::kFifo && was_hit && may_stay;
  if (stays) {
    moves_left_ -= pages;
    moves_in_a_row_ += pages;
  } else {
    moves_left_ = std::min(moves_left_ + kMovesForOne * pages, capacity_pages_);
    moves_in_a_row_ = 0;
  }
  return stays;
}

}  // namespace pcache::policy
