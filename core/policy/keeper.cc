// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/keeper.h"

#include <algorithm>

#include "base/check.h"
#include "base/mutants.h"

namespace pcache::policy {

namespace {

constexpr uint64_t kMovesForOne = 2;
constexpr uint64_t kInARowPart = 32;
constexpr uint64_t kLeastInARow = 8;

}  // namespace

Keeper::Keeper(uint64_t capacity_pages)
    : capacity_pages_(capacity_pages),
      most_in_a_row_(std::max(kLeastInARow, capacity_pages / kInARowPart)),
      moves_left_(capacity_pages) {
  PCACHE_CHECK(capacity_pages > 0);
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
