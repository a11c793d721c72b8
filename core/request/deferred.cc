// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/deferred.h"

#include <new>

#include "base/mutants.h"
#include "request/queue_state.h"

namespace pcache {

namespace {

// Of those that have come before the one with that serial number, with what is left of them.
bool any_overlaps(const PendingList& list, const pcache_request& request, uint64_t serial) {
  if (request.op == PCACHE_OP_FLUSH) return false;
  for (const PendingRequest* at = list.front(); at != nullptr && at->serial < serial;
       at = at->next) {
    const pcache_request& other = *at->request;
    if (other.op != PCACHE_OP_FLUSH && request.off < other.off + other.len &&
        other.off + at->noted_bytes < request.off + request.len)
      return true;
  }
  return false;
}

}  // namespace

int Deferred::add(QueueState& queue, pcache_request* request, const WriteProgress& progress) {
  PCACHE_DCHECK(progress.done_bytes <= request->len);
  PendingRequest* const pending = queue.in_flight.take(request, queue.ops[request->op]);
  queue.in_flight.note_waits_elsewhere(pending);
  pending->write = progress;
  {
    MutexLock lock(mu_);
    pending->serial = ++serial_;
    pending->noted_bytes = progress.done_bytes;
    insert(writes_zeros(*request) || any_overlaps(zeros_, *request, serial_) ? &zeros_ : &list_,
           pending);
  }
  if (wake_) wake_();
  return 0;
}

void Deferred::insert(PendingList* list, PendingRequest* pending) {
  if (list == &zeros_) {
    zeros_.insert(pending);
    note_zeros_left(zeros_count_.load(std::memory_order_relaxed) + 1);
    return;
  }
  cache_.counters().waits.add();
  if (hazard(Hazard::kLastInFirstOut))
    list_.push_front(pending);
  else
    list_.insert(pending);
  count_.fetch_add(1, std::memory_order_release);
}

void Deferred::note_zeros_left(uint32_t n) {
  zeros_count_.store(n, std::memory_order_release);
  n > 0 ? count_.fetch_or(kZerosWait, std::memory_order_release)
        : count_.fetch_and(~kZerosWait, std::memory_order_release);
}

bool Deferred::is_behind_zeros(const pcache_request& request) {
  if (!zeros_wait()) return false;
  MutexLock lock(mu_);
  return any_overlaps(zeros_, request, UINT64_MAX);
}

bool Deferred::has_earlier(const PendingList& list, const PendingRequest& pending) {
  MutexLock lock(mu_);
  return any_overlaps(list, *pending.request, pending.serial);
}

PendingRequest* Deferred::front(const PendingList& list) {
  MutexLock lock(mu_);
  return list.front();
}

void Deferred::pop_front(PendingList* list) {
  MutexLock lock(mu_);
  PCACHE_CHECK(!list->empty());
  list->pop_front();
  if (list == &list_)
    count_.fetch_sub(1, std::memory_order_release);
  else
    note_zeros_left(zeros_count_.load(std::memory_order_relaxed) - 1);
}

void Deferred::move_front(PendingList* from, PendingList* to) NO_THREAD_SAFETY_ANALYSIS {
  PendingRequest* const pending = front(*from);
  pop_front(from);
  MutexLock lock(mu_);
  insert(to, pending);
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
  {
    MutexLock running(run_mu_);
    run_list();
  }
  if (zeros_wait() && waiting_writes() == 0) wake();  // they may have waited for one of these
}

void Deferred::run_list() NO_THREAD_SAFETY_ANALYSIS {  // of the lists' addresses
  while (PendingRequest* pending = front(list_)) {
    if (zeros_wait() && has_earlier(zeros_, *pending)) {
      move_front(&list_, &zeros_);
      continue;
    }
    if (!admit(*pending)) return;
    const int result = resume(*pending);
    if (result == -ENOSPC) return;
    if (result == -EAGAIN || result == -EBUSY) {  // of zeros that had waited for space
      move_front(&list_, &zeros_);
    } else {
      finish_front(&list_, pending, result);
    }
  }
}

bool Deferred::run_zeros() NO_THREAD_SAFETY_ANALYSIS {  // likewise
  PendingRequest* const pending = front(zeros_);
  if (pending == nullptr || has_earlier(list_, *pending)) return false;
  const int result = admit(*pending) ? resume(*pending) : -ENOSPC;
  {
    MutexLock lock(mu_);
    pending->noted_bytes = pending->write.done_bytes;
  }
  if (result == -EAGAIN) return true;
  if (result == -EBUSY) return false;
  if (result == -ENOSPC) {
    move_front(&zeros_, &list_);
  } else {
    finish_front(&zeros_, pending, result);
  }
  return zeros_wait();
}

uint32_t Deferred::cancel(const QueueState& queue) {
  MutexLock running(run_mu_);
  PendingList writes, zeros;
  uint32_t n_writes = 0, n_zeros = 0;
  {
    MutexLock lock(mu_);
    writes = list_.take_of(queue);
    zeros = zeros_.take_of(queue);
    n_writes = writes.count();
    n_zeros = zeros.count();
    count_.fetch_sub(n_writes, std::memory_order_release);
    note_zeros_left(zeros_count_.load(std::memory_order_relaxed) - n_zeros);
  }
  for (PendingList* list : {&writes, &zeros})
    while (PendingRequest* pending = list->pop_front())
      pending->queue->completions.complete(pending, ECANCELED);
  wake();  // who was behind one of them may be able to go on
  return n_writes + n_zeros;
}

}  // namespace pcache
