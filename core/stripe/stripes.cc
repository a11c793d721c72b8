// SPDX-License-Identifier: GPL-2.0-or-later
#include "stripe/stripes.h"

namespace pcache {

FillToken FillTable::add(Fill* fill) {
  uint32_t index;
  if (free_.empty()) {
    PCACHE_CHECK(entries_.size() < (1u << kIndexBits));
    index = static_cast<uint32_t>(entries_.size());
    entries_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  const uint64_t token = ++serial_ << kIndexBits | index;
  entries_[index] = {fill, token};
  return FillToken{token};
}

Fill* FillTable::find(FillToken token) const {
  const uint64_t index = token.v & ((1u << kIndexBits) - 1);
  if (index >= entries_.size() || entries_[index].token != token.v) return nullptr;
  return entries_[index].fill;
}

void FillTable::remove(FillToken token) {
  const uint32_t index = static_cast<uint32_t>(token.v & ((1u << kIndexBits) - 1));
  PCACHE_CHECK(entries_[index].token == token.v);
  entries_[index] = {};
  free_.push_back(index);
}

Stripes::Stripes(uint32_t count, KeyLog& log)
    : mask_(count - 1), stripes_(std::make_unique<Stripe[]>(count)), log_(log) {
  PCACHE_CHECK(count > 0 && (count & (count - 1)) == 0);
}

void Stripes::prepare(Stripe& stripe) {
  if (stripe.kset) return;
  stripe.kset = log_.get_buffer();
  stripe.seen_by_closer = false;
}

KeyLog::Ticket Stripes::append(Stripe& stripe, const media::Key& key) {
  prepare(stripe);
  KsetBuffer& kset = *stripe.kset;
  kset.keys[kset.n++] = key;
  stripe.open_keys.store(kset.n, std::memory_order_release);
  return kset.full() ? seal(stripe) : 0;
}

KeyLog::Ticket Stripes::seal(Stripe& stripe) {
  const KeyLog::Ticket ticket = log_.seal(stripe.kset);
  stripe.kset = nullptr;
  stripe.open_keys.store(0, std::memory_order_release);
  return ticket;
}

Status Stripes::flush() {
  if (auto closed = close_all(); !closed) return closed;
  log_.end_epoch();
  return {};
}

Status Stripes::close_all() {
  for (uint32_t i = 0; i < count(); i++) {
    Stripe& stripe = stripes_[i];
    if (stripe.open_keys.load(std::memory_order_acquire) == 0) continue;
    MutexLock lock(stripe.mu);
    if (stripe.kset && stripe.kset->n > 0) seal(stripe);
  }
  return log_.commit(log_.last_sealed());
}

Status Stripes::close_old() {
  for (uint32_t i = 0; i < count(); i++) {
    Stripe& stripe = stripes_[i];
    if (stripe.open_keys.load(std::memory_order_acquire) == 0) continue;
    MutexLock lock(stripe.mu);
    if (!stripe.kset || stripe.kset->n == 0) continue;
    if (stripe.seen_by_closer)
      seal(stripe);
    else
      stripe.seen_by_closer = true;
  }
  // Also what an earlier commit found no room for.
  return log_.commit(log_.last_sealed());
}

uint64_t Stripes::open_keys() const {
  uint64_t n = 0;
  for (uint32_t i = 0; i < count(); i++) n += stripes_[i].open_keys.load(std::memory_order_relaxed);
  return n;
}

}  // namespace pcache
