// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/shadow_log.h"

#include "base/check.h"
#include "policy/page_hash.h"

namespace pcache::policy {

ShadowLog::ShadowLog(Rule rule, uint64_t capacity_pages)
    : rule_(rule),
      capacity_pages_(capacity_pages),
      admission_(capacity_pages, rule == Rule::kReuse),
      keeper_(capacity_pages),
      slots_(2 * capacity_pages + 1, kFree) {
  PCACHE_CHECK(capacity_pages < kFree);
  ring_.reserve(capacity_pages);
}

bool ShadowLog::access(uint64_t page, uint64_t hash, bool write, bool has_room) {
  const auto tag = static_cast<uint32_t>(hash >> 32);
  if (const uint32_t at = slots_[find(tag)]; at != kFree) {
    (write ? ring_[at].written : ring_[at].hit) = true;
    return true;
  }
  const bool admitted = !write && admission_.admits(rule_, page, hash);
  if (write || admitted || (has_room && ring_.size() < capacity_pages_)) append(tag);
  return false;
}

void ShadowLog::append(uint32_t tag) {
  uint64_t at = ring_.size();
  if (at < capacity_pages_) {
    ring_.push_back({});  // within what is reserved
  } else {
    make_room();
    at = tail_;
    tail_ = (tail_ + 1) % capacity_pages_;
  }
  ring_[at] = {.tag = tag, .hit = false, .written = false};
  slots_[find(tag)] = static_cast<uint32_t>(at);
}

void ShadowLog::make_room() {
  for (;; tail_ = (tail_ + 1) % capacity_pages_) {
    Page& page = ring_[tail_];
    if (page.written) {
      page.written = false;
    } else if (keeper_.stays(rule_, page.hit)) {
      page.hit = false;
    } else {
      break;
    }
  }
  erase(ring_[tail_].tag);
}

uint64_t ShadowLog::home(uint32_t tag) const {
  return place_of(uint64_t{tag} << 32, slots_.size());
}

uint64_t ShadowLog::find(uint32_t tag) const {
  uint64_t slot = home(tag);
  while (slots_[slot] != kFree && ring_[slots_[slot]].tag != tag) slot = after(slot);
  return slot;
}

// Closes the gap: whatever could not be found any more moves into it.
void ShadowLog::erase(uint32_t tag) {
  uint64_t gap = find(tag);
  PCACHE_CHECK(slots_[gap] != kFree);
  for (uint64_t slot = after(gap); slots_[slot] != kFree; slot = after(slot)) {
    const uint64_t wanted = home(ring_[slots_[slot]].tag);
    const bool passes_gap =
        gap <= slot ? wanted <= gap || wanted > slot : wanted <= gap && wanted > slot;
    if (!passes_gap) continue;
    slots_[gap] = slots_[slot];
    gap = slot;
  }
  slots_[gap] = kFree;
}

}  // namespace pcache::policy
