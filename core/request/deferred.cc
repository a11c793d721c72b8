// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/deferred.h"

#include <new>

#include "base/mutants.h"
#include "request/queue_state.h"

namespace pcache {

int Deferred::add(QueueState& queue, pcache_request* request, const WriteProgress& progress) {
  PCACHE_DCHECK(progress.done_bytes <= request->len);
  PendingRequest* const pending = queue.in_flight.take(request, queue.ops[request->op]);
  queue.in_flight.note_waits_elsewhere(pending);
  pending->write = progress;
  push(pending);
  if (wake_) wake_();
  return 0;
}

void Deferred::push(PendingRequest* pending, bool to_writes) {
  MutexLock lock(mu_);
  if (writes_zeros(*pending->request) && !to_writes) {
    zeros_.push_back(pending);
    zeros_count_.fetch_add(1, std::memory_order_release);
    return;
  }
  cache_.counters().waits.add();
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

void Deferred::finish_front(PendingList* list, PendingRequest* pending, int result) {
  pop_front(list);
  if (result == -EINPROGRESS)
    cache_.acks().add(pending);
  else
    pending->queue->completions.complete(pending, -result);
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
    while (PendingRequest* pending = front(*list)) finish_front(list, pending, -error);
}

void Deferred::run() {
  if (count() == 0) return;
  bool more = false;
  {
    MutexLock running(run_mu_);
    run_list();
    more = run_zeros();
  }
  if (more) wake();
}

void Deferred::run_writes() {
  if (empty()) return;
  MutexLock running(run_mu_);
  run_list();
}

void Deferred::run_list() NO_THREAD_SAFETY_ANALYSIS {  // of the lists' addresses
  while (PendingRequest* pending = front(list_)) {
    if (!admit(*pending)) return;
    const int result = resume(*pending);
    if (result == -ENOSPC) return;
    if (result == -EAGAIN || result == -EBUSY) {  // of zeros that had waited for space
      pop_front(&list_);
      push(pending);
    } else {
      finish_front(&list_, pending, result);
    }
  }
}

bool Deferred::run_zeros() NO_THREAD_SAFETY_ANALYSIS {  // likewise
  PendingRequest* const pending = front(zeros_);
  if (pending == nullptr) return false;
  const int result = admit(*pending) ? resume(*pending) : -ENOSPC;
  if (result == -EAGAIN) return true;
  if (result == -EBUSY) return false;
  if (result == -ENOSPC) {
    pop_front(&zeros_);
    push(pending, true);
  } else {
    finish_front(&zeros_, pending, result);
  }
  return zeros_wait();
}

uint32_t Deferred::cancel(const QueueState& queue) {
  MutexLock running(run_mu_);
  PendingList writes, zeros;
  {
    MutexLock lock(mu_);
    writes = list_.take_of(queue);
    zeros = zeros_.take_of(queue);
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
  wake();  // who was behind one of them may be able to go on
  return n;
}

}  // namespace pcache
