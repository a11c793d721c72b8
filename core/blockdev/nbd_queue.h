// SPDX-License-Identifier: GPL-2.0-or-later
// NbdQueue: a BlockQueue over a connection to a server of NBD, which it may share with others.
//
// Invariants
// - All of it is under the connection's mutex but what is const, or atomic.
// - Whoever pumps the connection takes the answers of all its queues; `done` of a queue's requests
//   runs in its own poll() and wait(). event_ is readable exactly while signalled_: something has
//   finished that this queue has not seen, or its waiter is to look again.
// - A flush does not succeed if writes may have been lost that this queue has not been told of.
#pragma once

#include <atomic>
#include <memory>

#include "blockdev/block_device.h"
#include "blockdev/block_io.h"
#include "blockdev/nbd_connection.h"
#include "blockdev/nbd_server.h"
#include "blockdev/unique_fd.h"

namespace pcache {

class NbdQueue final : public BlockQueue {
 public:
  // The queue gives its connection back when it ends. `server` outlives it.
  static Result<std::unique_ptr<NbdQueue>> open(NbdServer& server,
                                                std::shared_ptr<NbdConnection> connection,
                                                unsigned depth);
  ~NbdQueue() override;

  void submit(BlockIo* io) override;
  bool kick() override {
    return true;
  }  // submit() sends; what the socket did not take, pump() does
  unsigned poll() override;
  unsigned wait(int64_t timeout_ns) override;
  int fd() const override { return epoll_.get(); }
  unsigned in_flight() const override { return in_flight_.load(std::memory_order_relaxed); }

  // Of each connection: an answer for one of this class.
  static void on_finished(BlockIo* io);

 private:
  NbdQueue(NbdServer& server, std::shared_ptr<NbdConnection> connection, unsigned depth,
           UniqueFd event, UniqueFd epoll);

  void add_finished(BlockIo* io) REQUIRES(connection_.mu);
  void start_more() REQUIRES(connection_.mu);
  void signal() REQUIRES(connection_.mu);
  BlockIoList take_finished() REQUIRES(connection_.mu);
  unsigned report(BlockIoList finished) EXCLUDES(connection_.mu);

  NbdServer& server_;
  const std::shared_ptr<NbdConnection> owned_;
  NbdConnection& connection_;  // that one
  const unsigned depth_;
  const UniqueFd event_, epoll_;
  BouncePool bounce_;  // never used: NBD takes any buffer

  BlockIoList backlog_ GUARDED_BY(connection_.mu);  // beyond depth_, in order of arrival
  BlockIoList finished_ GUARDED_BY(connection_.mu);
  unsigned running_ GUARDED_BY(connection_.mu) = 0;   // given to the connection
  uint64_t reported_ GUARDED_BY(connection_.mu) = 0;  // requests whose `done` has returned
  bool waiting_ GUARDED_BY(connection_.mu) = false;   // a thread is in wait()
  bool pumping_ GUARDED_BY(connection_.mu) = false;   // this queue does, and takes what it finds
  bool signalled_ GUARDED_BY(connection_.mu) = false;
  uint64_t losses_told_ GUARDED_BY(connection_.mu) = 0;
  std::atomic<unsigned> in_flight_{0};       // written under the mutex
  std::atomic<int64_t> idle_look_ticks_{0};  // when poll() last looked with nothing in flight
};

}  // namespace pcache
