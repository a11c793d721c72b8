// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/queue_set.h"

#include <sys/epoll.h>

namespace pcache {

Status QueueSet::add(QueueState* queue) {
  MutexLock lock(mu_);
  if (!epoll_.valid()) epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return error_errno(errno, "queue: no epoll instance");
  queues_.push_back(queue);
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, queue->device->fd(), &event) == 0) return {};
  const int error = errno;
  queues_.pop_back();
  return error_errno(error, "queue: its ring cannot be watched");
}

void QueueSet::remove(QueueState* queue) {
  MutexLock lock(mu_);
  PCACHE_DCHECK(queue->in_flight.count() == 0);
  if (std::erase(queues_, queue) > 0)
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, queue->device->fd(), nullptr);
  const QueueCounters& counters = queue->counters;
  for (const auto& counter : kQueueCounters)
    (gone_.*counter.member).add((counters.*counter.member).load());
  for (size_t i = 0; i < kLatencyClasses; i++) gone_.latency[i].merge(counters.latency[i]);
}

void QueueSet::poll_all() {
  MutexLock lock(mu_);
  for (QueueState* queue : queues_) queue->device->poll();
}

size_t QueueSet::size() {
  MutexLock lock(mu_);
  return queues_.size();
}

}  // namespace pcache
