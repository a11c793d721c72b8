// SPDX-License-Identifier: GPL-2.0-or-later
// NbdConnection: one connection to a server of NBD, kept up. What was asked of a server that went
// away is asked again of the one that comes back.
//
// Invariants
// - It has no thread: the connection goes on in pump(), which whoever waits for it calls. What is
//   sent, is sent by start() as far as the socket takes it at once.
// - Each request is in one place: in the handle (`issued_`), in `waiting_` until there is a
//   connection, or given to `finished`.
// - A connection is never cut while the server may still do what was asked on it: it would be asked
//   again, and the old request, done late, could overwrite what came after. It ends when the server
//   ends it. So a server that hangs is waited for, as a disk that hangs is. A server that may end a
//   connection and go on with what came by it (a host that is cut off and not dead) must serve one
//   connection at a time.
// - A request of which the connection ended is asked again, from its beginning. Whether a flush may
// succeed then is the
//   queue's to say (NbdServer).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "base/result.h"
#include "blockdev/block_io.h"
#include "blockdev/nbd_server.h"
#include "blockdev/unique_fd.h"

namespace pcache {

class NbdConnection {
 public:
  // Called under `mu` once the request's `result` is set.
  using Finished = void (*)(BlockIo* io);

  // Begins to connect, and waits for nothing. `server` outlives it.
  static Result<std::unique_ptr<NbdConnection>> open(NbdServer& server, Finished finished);
  ~NbdConnection();
  NbdConnection(const NbdConnection&) = delete;
  NbdConnection& operator=(const NbdConnection&) = delete;

  // Of the first connection: waits until it is there, and says what the server has.
  Result<NbdExport> wait_for_export(int64_t timeout_ns) EXCLUDES(mu);

  Mutex mu;  // all of this, and of the queues that use it

  void start(BlockIo* io) REQUIRES(mu);
  // Takes what has come, and connects again when it is time to. Waits for nothing.
  void pump() REQUIRES(mu);
  // Whoever waits is to pump. Any thread.
  void wake() EXCLUDES(mu);
  // Readable when pump() has something to do.
  int fd() const { return epoll_.get(); }

  // Counts itself in; and pumps, since nobody else may. Any thread.
  void add_to(BlockLink* link) EXCLUDES(mu);

 private:
  enum class State {
    kConnecting,
    kUp,
    kLeaving,  // the server is about to end it: nothing new is given to it
    kDown,     // until the timer says to try again
  };

  NbdConnection(NbdServer& server, Finished finished, UniqueFd epoll, UniqueFd timer)
      : server_(server), finished_(finished), epoll_(std::move(epoll)), timer_(std::move(timer)) {}

  static int on_answer(void* request, int* error);
  bool is_over() const REQUIRES(mu);  // of the handle: it does nothing any more
  uint32_t length_of(const BlockIo* io) const REQUIRES(mu);
  int64_t give(BlockIo* io) REQUIRES(mu);
  void retire(BlockIo* io) REQUIRES(mu);
  void issue(BlockIo* io) REQUIRES(mu);
  void finish(BlockIo* io, int error) REQUIRES(mu);
  void take_answer(BlockIo* io, int error) REQUIRES(mu);
  void take_answers() REQUIRES(mu);
  void keep(BlockIo* io) REQUIRES(mu);
  void connect() REQUIRES(mu);
  void come_up() REQUIRES(mu);
  void go_down(int code, std::string why) REQUIRES(mu);
  void look_at_handle() REQUIRES(mu);
  void set_timer(int64_t ns) REQUIRES(mu);
  bool timer_is_over() REQUIRES(mu);
  short socket_events() const REQUIRES(mu);  // of poll(2), that libnbd waits for
  void watch_socket() REQUIRES(mu);
  void watch_nothing() REQUIRES(mu);

  NbdServer& server_;
  const Finished finished_;
  const UniqueFd epoll_, timer_;

  State state_ GUARDED_BY(mu) = State::kDown;
  NbdHandle handle_ GUARDED_BY(mu);
  NbdExport export_ GUARDED_BY(mu);     // of the connection that is up
  BlockIoList answers_ GUARDED_BY(mu);  // came while libnbd ran; their `result` is the error
  BlockIoList waiting_ GUARDED_BY(mu);
  unsigned issued_ GUARDED_BY(mu) = 0, waiting_count_ GUARDED_BY(mu) = 0;
  UniqueFd watched_ GUARDED_BY(mu);  // of the handle's socket, by the epoll
  uint32_t watched_events_ GUARDED_BY(mu) = 0;
  int64_t pause_ns_ GUARDED_BY(mu) = 0;       // before the next attempt
  int64_t down_since_ns_ GUARDED_BY(mu) = 0;  // 0: it was never up, or is
  int why_code_ GUARDED_BY(mu) = 0;           // of why_; positive errno
  std::string why_ GUARDED_BY(mu), told_ GUARDED_BY(mu);
};

}  // namespace pcache
