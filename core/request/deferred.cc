// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/deferred.h"

#include <new>

#include "base/mutants.h"
#include "request/queue.h"
#include "request/write_path.h"

namespace pcache {

void Deferred::push(PendingRequest* request) {
  {
    MutexLock lock(mu_);
    const bool to_front = hazard(Hazard::kLastInFirstOut) && head_;
    request->next = to_front ? head_ : nullptr;
    (head_ && !to_front ? tail_->next : head_) = request;
    if (!to_front) tail_ = request;
    count_.fetch_add(1, std::memory_order_release);
  }
  if (wake_) wake_();
}

PendingRequest* Deferred::front() {
  MutexLock lock(mu_);
  return head_;
}

void Deferred::pop_front() {
  MutexLock lock(mu_);
  head_ = head_->next;
  count_.fetch_sub(1, std::memory_order_release);
}

bool Deferred::admit(PendingRequest& request) {
  bool& admitted = request.progress.admitted;
  if (!admitted)
    admitted = request.request->op == PCACHE_OP_FLUSH || ctx_.log.failed() ||
               ctx_.pace.take(request.request->len);
  return admitted;
}

// In whose thread this is nobody expects an exception.
int Deferred::go_on(PendingRequest& request) {
  try {
    return write_request(ctx_, request.queue->head(), *request.request, &request.progress);
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  }
}

void Deferred::fail_all(int error) {
  MutexLock running(run_mu_);
  while (PendingRequest* request = front()) {
    pop_front();
    request->error.store(error, std::memory_order_relaxed);
    request->queue->complete(request);
  }
}

void Deferred::run() {
  if (empty()) return;
  MutexLock running(run_mu_);
  while (PendingRequest* request = front()) {
    if (!admit(*request)) return;
    const int result = go_on(*request);
    if (result == -ENOSPC) return;
    pop_front();
    request->error.store(-result, std::memory_order_relaxed);
    request->queue->complete(request);
  }
}

uint32_t Deferred::cancel(const Queue& queue) {
  MutexLock running(run_mu_);
  PendingRequest* cancelled = nullptr;
  uint32_t n = 0;
  {
    MutexLock lock(mu_);
    PendingRequest** at = &head_;
    tail_ = nullptr;
    while (PendingRequest* request = *at) {
      if (request->queue != &queue) {
        tail_ = request;
        at = &request->next;
        continue;
      }
      *at = request->next;
      request->next = cancelled;
      cancelled = request;
      n++;
      count_.fetch_sub(1, std::memory_order_release);
    }
  }
  while (PendingRequest* request = cancelled) {
    cancelled = request->next;
    request->error.store(ECANCELED, std::memory_order_relaxed);
    request->queue->complete(request);
  }
  if (count() > 0 && wake_) wake_();  // who was behind one of them may be able to go on
  return n;
}

}  // namespace pcache
