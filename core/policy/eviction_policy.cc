// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/eviction_policy.h"

namespace pcache::policy {

std::unique_ptr<EvictionPolicy> EvictionPolicy::make(PolicyKind kind, uint64_t capacity_pages) {
  return std::unique_ptr<EvictionPolicy>(new EvictionPolicy(kind, capacity_pages));
}

EvictionPolicy::EvictionPolicy(PolicyKind kind, uint64_t capacity_pages)
    : keeper_(capacity_pages), kind_(PolicyKind::kFifo) {
  (void)set_kind(kind, capacity_pages);
}

bool EvictionPolicy::set_kind(PolicyKind kind, uint64_t capacity_pages) {
  const bool begins = kind == PolicyKind::kAdaptive && made_ == nullptr;
  if (begins) {
    made_ = std::make_unique<Sample>(capacity_pages);
    sample_.store(made_.get(), std::memory_order_release);
  }
  kind_.store(kind, std::memory_order_release);
  return begins;
}

bool EvictionPolicy::admits(uint64_t page, uint64_t pages, bool has_room) {
  Sample* const sample = this->sample();
  if (sample == nullptr) return true;
  (void)show(*sample, page, pages, /*write=*/false, has_room);
  return kind() != PolicyKind::kAdaptive ||
         sample->admission.admits(sample->duel.leader(), page, page_hash(page), pages) || has_room;
}

Mark EvictionPolicy::told_of_hit(uint64_t page, bool has_room) {
  Sample* const sample = this->sample();
  return sample && show(*sample, page, 1, /*write=*/false, has_room) ? Mark::kHitSample
                                                                     : Mark::kHit;
}

const char* name_of(PolicyKind kind) {
  switch (kind) {
    case PolicyKind::kFifo:
      return "fifo";
    case PolicyKind::kSecondChance:
      return "second_chance";
    case PolicyKind::kAdaptive:
      return "adaptive";
  }
  return "?";
}

const char* name_of(Rule rule) {
  switch (rule) {
    case Rule::kFifo:
      return "fifo";
    case Rule::kSecondChance:
      return "second_chance";
    case Rule::kBimodal:
      return "bimodal";
    case Rule::kReuse:
      return "reuse";
  }
  return "?";
}

}  // namespace pcache::policy
