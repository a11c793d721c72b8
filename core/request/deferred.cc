// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/deferred.h"

#include <new>

#include "base/mutants.h"
#include "request/queue_state.h"

namespace pcache {

int Deferred::add(QueueState& queue, pcache_request* request, const WriteProgress& progress) {
  PCACHE_DCHECK(progress.done_bytes <= request->len);
  PendingRequest* const pending = queue.in_flight.take(request, queue.ops[request->op]);
  queue.in_flight.note_waits_for_space(pending);
  pending->write = progress;
  cache_.counters().waits.add();
  push(pending);
  if (wake_) wake_();
  return 0;
}

void Deferred::push(PendingRequest* pending) {
  MutexLock lock(mu_);
  if (hazard(Hazard::kLastInFirstOut))
    list_.push_front(pending);
  else
    list_.push_back(pending);
  count_.fetch_add(1, std::memory_order_release);
}

PendingRequest* Deferred::front() {
  MutexLock lock(mu_);
  return list_.front();
}

void Deferred::pop_front() {
  MutexLock lock(mu_);
  PCACHE_CHECK(!list_.empty() && count() > 0);
  list_.pop_front();
  count_.fetch_sub(1, std::memory_order_release);
}

bool Deferred::admit(PendingRequest& pending) {
  bool& admitted = pending.write.admitted;
  if (!admitted)
    admitted = cache_.parts().log.failed() || cache_.pace().take(credit_bytes(*pending.request));
  return admitted;
}

// In whose thread this is nobody expects an exception.
int Deferred::resume(PendingRequest& pending) {
  try {
    return pending.op->resume(pending);
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  }
}

void Deferred::fail_all(int error) {
  MutexLock running(run_mu_);
  while (PendingRequest* pending = front()) {
    pop_front();
    pending->queue->completions.complete(pending, error);
  }
}

void Deferred::run() {
  if (empty()) return;
  MutexLock running(run_mu_);
  for_writeback_.store(false, std::memory_order_relaxed);
  while (PendingRequest* pending = front()) {
    if (!admit(*pending)) return;
    const int result = resume(*pending);
    if (result == -EBUSY) for_writeback_.store(true, std::memory_order_relaxed);
    if (result == -ENOSPC || result == -EBUSY) return;
    pop_front();
    pending->queue->completions.complete(pending, -result);
  }
}

uint32_t Deferred::cancel(const QueueState& queue) {
  MutexLock running(run_mu_);
  for_writeback_.store(false, std::memory_order_relaxed);
  PendingList cancelled;
  {
    MutexLock lock(mu_);
    PendingList kept;
    while (PendingRequest* pending = list_.pop_front())
      (pending->queue == &queue ? cancelled : kept).push_back(pending);
    list_ = kept;
  }
  uint32_t n = 0;
  for (; PendingRequest* pending = cancelled.pop_front(); n++) {
    PCACHE_DCHECK(count() > 0);
    count_.fetch_sub(1, std::memory_order_release);
    pending->queue->completions.complete(pending, ECANCELED);
  }
  if (count() > 0 && wake_) wake_();  // who was behind one of them may be able to go on
  return n;
}

}  // namespace pcache
