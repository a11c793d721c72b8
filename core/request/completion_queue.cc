// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/completion_queue.h"

#include <unistd.h>

#include <utility>

#include "base/check.h"

namespace pcache {

namespace {

void keep_first(PendingRequest* pending, int error) {
  int none = 0;
  if (error) pending->error.compare_exchange_strong(none, error, std::memory_order_relaxed);
}

}  // namespace

CompletionQueue::CompletionQueue(UniqueFd wake_fd, uint32_t fills)
    : wake_fd_(std::move(wake_fd)), all_fills_(std::make_unique<Fill[]>(fills)) {
  for (uint32_t i = fills; i-- > 0;) return_fill(&all_fills_[i]);
}

void CompletionQueue::complete(PendingRequest* pending, int error) {
  PCACHE_DCHECK(error >= 0);
  keep_first(pending, error);
  MutexLock lock(mu_);
  done_.push_back(pending);
  wake();
}

void CompletionQueue::finish_part(PendingRequest* read, int error) {
  keep_first(read, error);
  const uint32_t parts = read->parts_to_come.fetch_sub(1, std::memory_order_acq_rel);
  PCACHE_CHECK(parts > 0);
  if (parts == 1) complete(read);
}

void CompletionQueue::return_fill(Fill* fill) {
  PCACHE_DCHECK(fill->joins == nullptr);  // who has joined it would never be completed
  MutexLock lock(mu_);
  fill->next = free_fills_;
  free_fills_ = fill;
  if (std::exchange(wants_fill_, false)) wake();
}

Fill* CompletionQueue::take_fill() {
  MutexLock lock(mu_);
  Fill* const fill = free_fills_;
  if (fill != nullptr) free_fills_ = fill->next;
  return fill;
}

PendingList CompletionQueue::take(uint32_t max) {
  PendingList taken;
  MutexLock lock(mu_);
  while (max-- > 0 && !done_.empty()) taken.push_back(done_.pop_front());
  return taken;
}

void CompletionQueue::wake() {
  if (ready_) ready_->raise();
  if (!std::exchange(waiting_, false)) return;
  const uint64_t one = 1;
  PCACHE_CHECK(write(wake_fd_.get(), &one, sizeof one) == sizeof one);
}

bool CompletionQueue::begin_wait(bool for_fill) {
  MutexLock lock(mu_);
  if (!done_.empty() || (for_fill && free_fills_ != nullptr)) return false;
  waiting_ = true;
  wants_fill_ = for_fill;
  return true;
}

void CompletionQueue::end_wait() {
  {
    MutexLock lock(mu_);
    waiting_ = false;
  }
  uint64_t woken;
  while (read(wake_fd_.get(), &woken, sizeof woken) > 0) {
  }
}

Result<int> CompletionQueue::ready_fd(int ring_fd) {
  {
    MutexLock lock(mu_);
    if (ready_) return ready_->fd();
  }
  auto made = ReadyFd::create(ring_fd);
  if (!made) return made.error();
  MutexLock lock(mu_);
  ready_ = made.take();
  return ready_->fd();
}

void CompletionQueue::settle_ready_fd(const Unready& unready) {
  MutexLock lock(mu_);
  PCACHE_CHECK(ready_ != nullptr);
  const bool watched = ready_->watch_all(unready.all_rings_fd, unready.joined);
  wants_fill_ = unready.wants_fill;
  const bool can_go_on = unready.wants_fill && free_fills_ != nullptr;
  if (!done_.empty() || can_go_on || unready.needs_polling || !watched)
    ready_->raise();
  else
    ready_->lower();
}

uint32_t CompletionQueue::free_fills() {
  MutexLock lock(mu_);
  uint32_t n = 0;
  for (const Fill* fill = free_fills_; fill != nullptr; fill = fill->next) n++;
  return n;
}

}  // namespace pcache
