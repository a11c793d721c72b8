// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/retention.h"

#include <new>

namespace pcache::policy {

namespace {

uint64_t pages_in(uint64_t capacity_bytes) {
  return std::max<uint64_t>(capacity_bytes / kPageBytes, 1);
}

}  // namespace

Retention::Retention(PolicyKind kind, uint64_t media_bytes, uint64_t capacity_bytes,
                     uint64_t most_media_bytes)
    : policy_(EvictionPolicy::make(kind, pages_in(capacity_bytes))),
      most_media_bytes_(std::max(media_bytes, most_media_bytes)),
      capacity_bytes_(capacity_bytes),
      passed_since_bytes_(capacity_bytes),
      media_bytes_(media_bytes) {
  sample_limit_.store(policy_->sample_limit(), std::memory_order_relaxed);
  MutexLock lock(mu_);
  if (kind != PolicyKind::kFifo) have_marks();
}

void Retention::have_marks() {
  if (marks() != nullptr) return;
  memory_.map(marks_of(media_bytes_), marks_of(most_media_bytes_), "the marks of hits");
  marks_.store(reinterpret_cast<std::atomic<uint8_t>*>(memory_.base()), std::memory_order_release);
}

Status Retention::make_room(uint64_t media_bytes) {
  MutexLock lock(mu_);
  if (marks() != nullptr)
    if (auto room = memory_.grow(marks_of(media_bytes)); !room) return room;
  media_bytes_ = std::max(media_bytes_, media_bytes);
  return {};
}

// What was hit before the policy had a sample is marked as what it need not be told of again.
void Retention::tell_of_hits_anew() {
  std::atomic<uint8_t>* const marks = own_marks();
  for (uint64_t page = 0; page < marks_of(media_bytes_); page++)
    if (uint8_t hit = kHit; marks[page].load(std::memory_order_relaxed) == hit)
      (void)marks[page].compare_exchange_strong(hit, kSample, std::memory_order_relaxed);
}

Status Retention::set_kind(PolicyKind kind) try {
  MutexLock lock(mu_);
  if (kind != PolicyKind::kFifo) have_marks();
  const bool begins = policy_->set_kind(kind, pages_in(capacity_bytes()));
  sample_limit_.store(policy_->sample_limit(), std::memory_order_relaxed);
  if (begins) tell_of_hits_anew();
  return {};
} catch (const std::bad_alloc&) {
  return out_of_memory();
}

}  // namespace pcache::policy
