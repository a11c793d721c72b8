// SPDX-License-Identifier: GPL-2.0-or-later
// ReadyFd: what an event loop waits on in the place of reap(): readable while reap() has something
// to do. An epoll of what can bring a completion: the queue's own ring; an eventfd, raised by who
// completes a request in another thread; and, while a read waits for another queue's fill, all
// rings.
//
// Threads: CompletionQueue calls raise(), lower() and watch_all() under its mu_. The queue's thread
// calls the rest.
#pragma once

#include <memory>

#include "base/result.h"
#include "blockdev/unique_fd.h"

namespace pcache {

class ReadyFd {
 public:
  static Result<std::unique_ptr<ReadyFd>> create(int ring_fd);

  int fd() const { return epoll_.get(); }
  void raise();
  void lower();
  // Whether the rings of all queues are watched, too. False: they should be, and cannot.
  bool watch_all(int all_rings_fd, bool on);

 private:
  ReadyFd(UniqueFd epoll, UniqueFd event) : epoll_(std::move(epoll)), event_(std::move(event)) {}
  Status watch(int fd);

  const UniqueFd epoll_, event_;
  bool raised_ = false;
  bool watches_all_ = false;
};

}  // namespace pcache
