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
  waiting_.fetch_add(1, std::memory_order_relaxed);
  bool is_lost = false;
  {
    MutexLock lock(mu_);
    // It was on its way when what is in the log turned out to be damaged.
    is_lost = pending->write.losses != losses_.load(std::memory_order_relaxed);
    if (!is_lost && !hazard(Hazard::kAcknowledgedBeforeDevice)) {
      arrived_.push_back(pending);
      arrived_count_.fetch_add(1, std::memory_order_release);
      pending = nullptr;
    }
  }
  if (pending != nullptr)
    finish(pending, is_lost ? EIO : 0);
  else if (wake_)
    wake_();
}

void DeviceAcks::finish(PendingRequest* pending, int error) {
  // In this order: whoever sees the request complete may look whether others wait.
  waiting_.fetch_sub(1, std::memory_order_relaxed);
  begun_.fetch_sub(1, std::memory_order_release);
  pending->queue->completions.complete(pending, error);
}

uint32_t DeviceAcks::finish_all(PendingList* list, int error) {
  uint32_t n = 0;
  for (; PendingRequest* const pending = list->pop_front(); n++) finish(pending, error);
  return n;
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
  PendingList done;
  {
    MutexLock lock(mu_);
    while (marked_.front() != nullptr && marked_.front()->in_ksets <= ksets)
      done.push_back(marked_.pop_front());
  }
  finish_all(&done, 0);
}

void DeviceAcks::fail(int error) {
  PendingList all = take_all(false);
  finish_all(&all, error);
}

void DeviceAcks::data_lost() {
  PendingList all = take_all(true);
  finish_all(&all, EIO);
}

PendingList DeviceAcks::take_all(bool for_loss) {
  MutexLock lock(mu_);
  if (for_loss) losses_.fetch_add(1, std::memory_order_release);
  arrived_count_.store(0, std::memory_order_relaxed);
  PendingList all;
  for (PendingList* list : {&marked_, &closing_, &arrived_}) all.append(list);
  return all;
}

uint32_t DeviceAcks::cancel(const QueueState& queue) {
  PendingList taken;
  {
    MutexLock lock(mu_);
    for (PendingList* list : {&marked_, &closing_, &arrived_}) {
      PendingList of_it = list->take_of(queue);
      taken.append(&of_it);
    }
    arrived_count_.store(arrived_.count(), std::memory_order_relaxed);
  }
  return finish_all(&taken, ECANCELED);
}

}  // namespace pcache
