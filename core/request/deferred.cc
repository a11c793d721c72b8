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
  if (writes_zeros(*pending->request)) {
    if (zeros_.empty()) for_writeback_.store(true, std::memory_order_relaxed);
    zeros_.push_back(pending);
    zeros_count_.fetch_add(1, std::memory_order_release);
    return;
  }
  if (hazard(Hazard::kLastInFirstOut))
    list_.push_front(pending);
  else
    list_.push_back(pending);
  count_.fetch_add(1, std::memory_order_release);
}

PendingRequest* Deferred::front(const PendingList& list) {
  MutexLock lock(mu_);
  return list.front();
}

void Deferred::pop_front(PendingList* list) {
  MutexLock lock(mu_);
  PCACHE_CHECK(!list->empty());
  list->pop_front();
  (list == &list_ ? count_ : zeros_count_).fetch_sub(1, std::memory_order_release);
}

void Deferred::finish_front(PendingList* list, PendingRequest* pending, int error) {
  pop_front(list);
  pending->queue->completions.complete(pending, error);
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

void Deferred::fail_all(int error) NO_THREAD_SAFETY_ANALYSIS {  // of the lists' addresses
  MutexLock running(run_mu_);
  for (PendingList* list : {&list_, &zeros_})
    while (PendingRequest* pending = front(*list)) finish_front(list, pending, error);
}

void Deferred::run() {
  while (count() > 0 && run_some()) {
  }
}

bool Deferred::run_some() NO_THREAD_SAFETY_ANALYSIS {  // likewise
  MutexLock running(run_mu_);
  while (PendingRequest* pending = front(list_)) {
    if (!admit(*pending)) return false;
    const int result = resume(*pending);
    if (result == -ENOSPC) return false;
    finish_front(&list_, pending, -result);
  }
  PendingRequest* const zeros = front(zeros_);
  if (zeros == nullptr || !admit(*zeros)) return false;
  const int result = resume(*zeros);
  for_writeback_.store(result != -ENOSPC, std::memory_order_relaxed);
  if (result == -ENOSPC || result == -EBUSY) return false;
  if (result != -EAGAIN) finish_front(&zeros_, zeros, -result);
  return true;
}

// Keeps the others.
PendingList Deferred::take_of(const QueueState& queue, PendingList* list) {
  PendingList taken, kept;
  while (PendingRequest* pending = list->pop_front())
    (pending->queue == &queue ? taken : kept).push_back(pending);
  *list = kept;
  return taken;
}

uint32_t Deferred::cancel(const QueueState& queue) {
  MutexLock running(run_mu_);
  PendingList writes, zeros;
  {
    MutexLock lock(mu_);
    writes = take_of(queue, &list_);
    zeros = take_of(queue, &zeros_);
  }
  uint32_t n = 0;
  const auto give_up = [&n](PendingList& list, std::atomic<uint32_t>& count) {
    for (; PendingRequest* pending = list.pop_front(); n++) {
      count.fetch_sub(1, std::memory_order_release);
      pending->queue->completions.complete(pending, ECANCELED);
    }
  };
  give_up(writes, count_);
  give_up(zeros, zeros_count_);
  if (count() > 0 && wake_) wake_();  // who was behind one of them may be able to go on
  return n;
}

}  // namespace pcache
