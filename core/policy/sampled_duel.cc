// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/sampled_duel.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace pcache::policy {

namespace {

constexpr uint64_t kShadowPages = 512;
constexpr uint64_t kSmallestSample = 1 << 20;  // one page in so many
// It was the best of many traces, and passes a scan by, from which another rule takes long to
// recover.
constexpr Rule kFirst = Rule::kReuse;

uint64_t one_page_in(uint64_t capacity_pages) {
  return std::clamp<uint64_t>(std::bit_floor(capacity_pages / kShadowPages), 1, kSmallestSample);
}

template <size_t... kRule>
std::array<ShadowLog, kRules> shadow_logs(uint64_t pages, std::index_sequence<kRule...>) {
  return {ShadowLog(static_cast<Rule>(kRule), pages)...};
}

}  // namespace

SampledDuel::SampledDuel(uint64_t capacity_pages)
    : sample_limit_(UINT64_MAX / one_page_in(capacity_pages)),
      leader_(kFirst),
      shadows_(shadow_logs(capacity_pages / one_page_in(capacity_pages),
                           std::make_index_sequence<kRules>())),
      duel_(static_cast<size_t>(kFirst), capacity_pages / one_page_in(capacity_pages)) {}

void SampledDuel::access(uint64_t page, uint64_t hash, bool write, bool has_room) {
  std::atomic<uint64_t>& held = place_in_held(hash);
  if (!write && held.load(std::memory_order_relaxed) == hash) return;
  if (!mu_.try_lock()) return;
  uint32_t missed = 0;
  for (size_t i = 0; i < kRules; i++)
    missed |= uint32_t{!shadows_[i].access(page, hash, write, has_room)} << i;
  if (duel_.add(missed)) {
    leader_.store(static_cast<Rule>(duel_.leader()), std::memory_order_relaxed);
    changes_.store(changes() + 1, std::memory_order_relaxed);
  }
  held.store(missed == 0 ? hash : 0, std::memory_order_relaxed);
  mu_.unlock();
}

}  // namespace pcache::policy
