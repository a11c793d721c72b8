// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/ready_fd.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

namespace pcache {

Result<std::unique_ptr<ReadyFd>> ReadyFd::create(int ring_fd) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return error_errno(errno, "queue: no epoll instance");
  UniqueFd event(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!event.valid()) return error_errno(errno, "queue: no eventfd");
  std::unique_ptr<ReadyFd> made(new ReadyFd(std::move(epoll), std::move(event)));
  if (auto watched = made->watch(made->event_.get()); !watched) return watched.error();
  if (auto watched = made->watch(ring_fd); !watched) return watched.error();
  return made;
}

Status ReadyFd::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return error_errno(errno, "queue: its completions cannot be watched");
}

void ReadyFd::raise() {
  if (raised_) return;
  raised_ = true;
  const uint64_t one = 1;
  PCACHE_CHECK(write(event_.get(), &one, sizeof one) == sizeof one);
}

void ReadyFd::lower() {
  if (!raised_) return;
  raised_ = false;
  uint64_t count = 0;
  PCACHE_CHECK(read(event_.get(), &count, sizeof count) == sizeof count);
}

// Watching may fail, for want of memory or by a limit on epolls. It is tried again each time.
bool ReadyFd::watch_all(int all_rings_fd, bool on) {
  PCACHE_DCHECK(all_rings_fd >= 0);
  if (on && !watches_all_) watches_all_ = watch(all_rings_fd).ok();
  if (!on && watches_all_)
    watches_all_ = epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, all_rings_fd, nullptr) != 0;
  return watches_all_ || !on;
}

}  // namespace pcache
