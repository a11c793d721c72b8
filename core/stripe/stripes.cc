// SPDX-License-Identifier: GPL-2.0-or-later
#include "stripe/stripes.h"

#include <bit>
#include <new>
#include <utility>

#include "base/process_barrier.h"

namespace pcache {

FillToken FillTable::add(Fill* fill) noexcept {
  uint32_t index = free_;
  if (index != kNone) {
    free_ = static_cast<uint32_t>(entries_[index].token);
  } else {
    if (entries_.size() >= most_) return {};
    index = static_cast<uint32_t>(entries_.size());
    try {
      entries_.emplace_back();
    } catch (const std::bad_alloc&) {
      return {};
    }
  }
  serial_ = (serial_ + 1) % (uint64_t{1} << kSerialBits);
  if (serial_ == 0) serial_ = 1;  // no token is 0
  const uint64_t token = serial_ << kIndexBits | index;
  entries_[index] = {fill, token};
  used_++;
  return FillToken{token};
}

Fill* FillTable::find(FillToken token) const {
  const uint64_t index = token.v & kIndexMask;
  if (index >= entries_.size() || entries_[index].token != token.v) return nullptr;
  return entries_[index].fill;
}

void FillTable::remove(FillToken token) noexcept {
  const uint32_t index = static_cast<uint32_t>(token.v & kIndexMask);
  PCACHE_CHECK(entries_[index].token == token.v);
  entries_[index] = {nullptr, free_};
  free_ = index;
  used_--;
}

Stripes::Stripes(uint32_t count, KeyLog& log)
    : mask_(count - 1), stripes_(std::make_unique<Stripe[]>(count)), log_(log) {
  PCACHE_CHECK(count > 0 && (count & (count - 1)) == 0 && count <= kMost);
  // Called now, not by the first lock: the kernel takes some 15 ms to register a process with
  // several threads.
  (void)process_barrier_available();
}

bool Stripes::open(Stripe& stripe) {
  stripe.kset = log_.get_buffer();
  if (stripe.kset == nullptr) return false;
  stripe.kset_number.store(stripe.kset_number.load(std::memory_order_relaxed) + 1,
                           std::memory_order_release);
  return true;
}

template <typename Visit>
void Stripes::each_open(Visit visit) {
  constexpr uint32_t kBytes = sizeof(uint64_t);
  for (uint32_t base = 0; base < count(); base += kBytes) {
    const auto* const eight =
        static_cast<const uint64_t*>(__builtin_assume_aligned(&open_map_[base], kBytes));
    uint64_t open = __atomic_load_n(eight, __ATOMIC_ACQUIRE);
    for (; open != 0; open &= open - 1)
      visit(stripes_[base + static_cast<uint32_t>(std::countr_zero(open)) / 8]);
  }
}

KeyLog::Ticket Stripes::seal(Stripe& stripe) {
  stripe.kset->n = stripe.open_keys.load(std::memory_order_relaxed);
  stripe.kset->unfenced_by = stripe.unfenced_by;
  const KeyLog::Ticket ticket = log_.seal(stripe.kset);
  mark_open(stripe, false);  // after the ticket: a flush that sees this waits for it
  stripe.kset = nullptr;
  stripe.unfenced_by = KsetBuffer::kNobody;
  stripe.open_keys.store(0, std::memory_order_release);
  return ticket;
}

Status Stripes::flush() {
  if (auto closed = close_all(); !closed) return closed;
  log_.end_epoch();
  return {};
}

Status Stripes::close_all() {
  each_open([this](Stripe& stripe) {
    BiasedLock lock(stripe.mu);
    if (stripe.open_keys.load(std::memory_order_relaxed) > 0) seal(stripe);
  });
  return log_.commit(log_.last_sealed());
}

Status Stripes::close_open() {
  each_open([this](Stripe& stripe) {
    BorrowedLock lock(stripe.mu);
    if (stripe.open_keys.load(std::memory_order_relaxed) > 0) seal(stripe);
  });
  return log_.commit_borrowing(log_.last_sealed());
}

Status Stripes::close(const Set& numbers) {
  for (uint32_t i = 0; i < count(); i++) {
    if (!numbers[i]) continue;
    Stripe& stripe = stripes_[i];
    BorrowedLock lock(stripe.mu);
    if (stripe.open_keys.load(std::memory_order_relaxed) > 0) seal(stripe);
  }
  return log_.commit_borrowing(log_.last_sealed());
}

Status Stripes::free_buffers() {
  if (auto closed = close_all(); !closed) return closed;
  for (uint32_t i = 0; i < count(); i++) {
    Stripe& stripe = stripes_[i];
    BiasedLock lock(stripe.mu);
    if (stripe.kset == nullptr || stripe.open_keys.load(std::memory_order_relaxed) > 0) continue;
    log_.put_back(std::exchange(stripe.kset, nullptr));
  }
  return {};
}

Status Stripes::close_old() {
  each_open([this](Stripe& stripe) {
    // Looks without the lock first: a stripe that fills its ksets needs no closer, and to revoke
    // its bias costs the biased thread more than us.
    const uint32_t number = stripe.kset_number.load(std::memory_order_acquire);
    if (stripe.seen_by_closer.exchange(number, std::memory_order_relaxed) != number) return;
    BorrowedLock lock(stripe.mu);
    if (stripe.open_keys.load(std::memory_order_relaxed) > 0 &&
        stripe.kset_number.load(std::memory_order_relaxed) == number)
      seal(stripe);
  });
  // Also commits what an earlier commit found no room for.
  return log_.commit_borrowing(log_.last_sealed());
}

uint64_t Stripes::open_keys() const {
  uint64_t n = 0;
  for (uint32_t i = 0; i < count(); i++) n += stripes_[i].open_keys.load(std::memory_order_acquire);
  return n;
}

}  // namespace pcache
