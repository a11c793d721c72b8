// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/device_acks.h"

#include <cerrno>

#include "base/mutants.h"
#include "request/queue_state.h"

namespace pcache {

bool DeviceAcks::begin_waiting(WriteProgress* progress) {
  begun_.fetch_add(1, std::memory_order_seq_cst);
  progress->to_device |= mode_.acks_on_device();
  if (!progress->to_device) end();
  return progress->to_device;
}

int DeviceAcks::add(QueueState& queue, pcache_request* request, const WriteProgress& progress) {
  PendingRequest* const pending = queue.in_flight.take(request, queue.ops[request->op]);
  queue.in_flight.note_waits_elsewhere(pending);
  pending->write = progress;
  add(pending);
  return 0;
}

void DeviceAcks::add(PendingRequest* pending) {
  PCACHE_DCHECK(pending->write.to_device && begun_.load(std::memory_order_relaxed) > 0);
  if (pending->request->op == PCACHE_OP_WRITE) pending->latency = LatencyClass::kWriteThrough;
  {
    MutexLock lock(mu_);
    waiting_.fetch_add(1, std::memory_order_relaxed);
    // It was on its way when what is in the log turned out to be damaged.
    if (pending->write.losses != losses_.load(std::memory_order_relaxed))
      return finish(pending, EIO);
    if (hazard(Hazard::kAcknowledgedBeforeDevice)) return finish(pending, 0);
    arrived_.push_back(pending);
    arrived_count_.fetch_add(1, std::memory_order_release);
  }
  if (wake_) wake_();
}

void DeviceAcks::finish(PendingRequest* pending, int error) {
  // In this order: whoever sees the request complete may look whether others wait.
  waiting_.fetch_sub(1, std::memory_order_relaxed);
  begun_.fetch_sub(1, std::memory_order_release);
  pending->queue->completions.complete(pending, error);
}

bool DeviceAcks::take_arrived() {
  MutexLock lock(mu_);
  closing_.append(&arrived_);
  arrived_count_.store(0, std::memory_order_relaxed);
  return !closing_.empty();
}

void DeviceAcks::mark(uint64_t ksets) {
  MutexLock lock(mu_);
  for (PendingRequest* pending = closing_.front(); pending != nullptr; pending = pending->next)
    pending->in_ksets = ksets;
  marked_.append(&closing_);
}

void DeviceAcks::passed(uint64_t ksets) {
  if (!any()) return;
  MutexLock lock(mu_);
  while (marked_.front() != nullptr && marked_.front()->in_ksets <= ksets)
    finish(marked_.pop_front(), 0);
}

void DeviceAcks::fail(int error) {
  MutexLock lock(mu_);
  fail_all(error);
}

void DeviceAcks::data_lost() {
  MutexLock lock(mu_);
  losses_.fetch_add(1, std::memory_order_release);
  fail_all(EIO);
}

void DeviceAcks::fail_all(int error) {
  arrived_count_.store(0, std::memory_order_relaxed);
  for (PendingList* list : {&marked_, &closing_, &arrived_})
    while (PendingRequest* const pending = list->pop_front()) finish(pending, error);
}

uint32_t DeviceAcks::cancel(const QueueState& queue) {
  MutexLock lock(mu_);
  uint32_t n = 0;
  for (PendingList* list : {&marked_, &closing_, &arrived_}) {
    PendingList taken = list->take_of(queue);
    for (; PendingRequest* const pending = taken.pop_front(); n++) {
      if (list == &arrived_) arrived_count_.fetch_sub(1, std::memory_order_relaxed);
      finish(pending, ECANCELED);
    }
  }
  return n;
}

}  // namespace pcache
