// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/admission.h"

#include <algorithm>

#include "base/check.h"
#include "policy/page_hash.h"

namespace pcache::policy {

namespace {

constexpr uint64_t kOneMissIn = 64;
constexpr uint64_t kNeighbours = 32;
constexpr uint64_t kMissesOfADraw = 1024;
constexpr uint64_t kReachPart = 4;  // the ghosts remember capacity / 4 misses

// Whether chance admits the page. Neighbours that are missed soon after each other are admitted or
// refused together: pages here and there would cut later reads into pieces.
bool is_lucky(uint64_t page, uint64_t miss) {
  const uint64_t draw = page_hash(page / kNeighbours) + miss / kMissesOfADraw;
  return page_hash(draw) % kOneMissIn == 0;
}

}  // namespace

Admission::Admission(uint64_t capacity_pages, bool ghosts) {
  PCACHE_CHECK(capacity_pages > 0);
  if (ghosts)
    ghosts_ = std::make_unique<GhostList>(std::max<uint64_t>(1, capacity_pages / kReachPart));
}

bool Admission::admits(Rule rule, uint64_t page, uint64_t hash, uint64_t pages) {
  PCACHE_DCHECK(rule != Rule::kReuse || ghosts_ != nullptr);
  const uint64_t miss = missed_pages_.fetch_add(pages, std::memory_order_relaxed);
  // Also under a rule that does not ask: another one may be next.
  const bool lately = ghosts_ != nullptr && ghosts_->missed(hash, miss);
  if (rule == Rule::kFifo || rule == Rule::kSecondChance) return true;
  if (rule == Rule::kReuse && lately) return true;
  return is_lucky(page, miss);
}

}  // namespace pcache::policy
