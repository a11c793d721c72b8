// SPDX-License-Identifier: GPL-2.0-or-later
#include "blockdev/nbd_connection.h"

#include <fcntl.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>
#include <utility>

#include "blockdev/deadline.h"

namespace pcache {

namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kShortestPauseNs = kSecondNs / 100, kLongestPauseNs = 2 * kSecondNs;
// Of one pump(): a server that never ends its answer does not keep the lock for ever.
constexpr int kMostRounds = 4096;
// A host is gone when it has not answered the kernel's probes for a minute. One that merely hangs
// answers them.
struct SocketOption {
  int level, option, value;
};
constexpr SocketOption kKeepAlive[] = {{SOL_SOCKET, SO_KEEPALIVE, 1},
                                       {IPPROTO_TCP, TCP_KEEPIDLE, 30},
                                       {IPPROTO_TCP, TCP_KEEPINTVL, 10},
                                       {IPPROTO_TCP, TCP_KEEPCNT, 3}};
constexpr int64_t kAttemptNs = 30 * kSecondNs;  // of one attempt, until the server has answered

int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kSecondNs + now.tv_nsec;
}

bool is_lost(int error) { return error == ENOTCONN || error == ESHUTDOWN; }

}  // namespace

Result<std::unique_ptr<NbdConnection>> NbdConnection::open(NbdServer& server, Finished finished) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  epoll_event event = {EPOLLIN, {.fd = timer.get()}};
  if (!epoll.valid() || !timer.valid() ||
      epoll_ctl(epoll.get(), EPOLL_CTL_ADD, timer.get(), &event) != 0)
    return error_errno(errno, "cannot wait for backing device %s", server.name().c_str());
  std::unique_ptr<NbdConnection> connection(
      new NbdConnection(server, finished, std::move(epoll), std::move(timer)));
  MutexLock lock(connection->mu);
  connection->connect();
  return connection;
}

NbdConnection::~NbdConnection() {
  MutexLock lock(mu);
  PCACHE_CHECK(issued_ == 0 && waiting_count_ == 0 && answers_.empty());
  if (state_ == State::kUp) nbd_aio_disconnect(handle_.get(), 0);  // it need not succeed
}

Result<NbdExport> NbdConnection::wait_for_export(int64_t timeout_ns) {
  const Deadline deadline(timeout_ns);
  for (;;) {
    const int64_t left_ns = deadline.left_ns(kSecondNs);
    {
      MutexLock lock(mu);
      pump();
      if (state_ == State::kUp) return export_;
      if (!why_.empty()) return make_error(why_code_, "%s", why_.c_str());
      if (left_ns == 0)
        return make_error(ETIMEDOUT,
                          "backing device %s: the server does not answer: is it one that serves a "
                          "single client, and has one?",
                          server_.name().c_str());
    }
    pollfd wait = {epoll_.get(), POLLIN, 0};
    const timespec time = {left_ns / kSecondNs, left_ns % kSecondNs};
    ppoll(&wait, 1, &time, nullptr);
  }
}

// libnbd calls it from within a call of ours, so with `mu`, and with a lock of its own.
int NbdConnection::on_answer(void* request, int* error) NO_THREAD_SAFETY_ANALYSIS {
  auto* io = static_cast<BlockIo*>(request);
  io->result = *error;
  static_cast<NbdConnection*>(io->carrier)->answers_.push(io);
  return 0;  // see retire()
}

// libnbd keeps an answered request until it is asked for by its number. To let it go in
// on_answer(), by returning 1, would be to have it freed while libnbd 1.14 still looks at it, if
// the connection ends while the request is sent.
void NbdConnection::retire(BlockIo* io) {
  if (handle_) (void)nbd_aio_command_completed(handle_.get(), io->cookie);
}

bool NbdConnection::is_over() const {
  return nbd_aio_is_dead(handle_.get()) != 0 || nbd_aio_is_closed(handle_.get()) != 0;
}

uint32_t NbdConnection::length_of(const BlockIo* io) const {
  return has_data(io->op) ? std::min(transfer_len(io), export_.most_bytes) : io->len;
}

// The number libnbd has for it, or -1 and its error.
int64_t NbdConnection::give(BlockIo* io) {
  nbd_handle* const handle = handle_.get();
  const nbd_completion_callback done = {.callback = &on_answer, .user_data = io, .free = nullptr};
  switch (io->op) {
    case BlockOp::kRead:
      return nbd_aio_pread(handle, transfer_buffer(io), length_of(io), transfer_off(io), done, 0);
    case BlockOp::kWrite:
      return nbd_aio_pwrite(handle, transfer_buffer(io), length_of(io), transfer_off(io), done, 0);
    case BlockOp::kFlush:
      io->mark = server_.written();
      return nbd_aio_flush(handle, done, 0);
    case BlockOp::kZero:
      return nbd_aio_zero(handle, io->len, io->off, done, LIBNBD_CMD_FLAG_NO_HOLE);
    case BlockOp::kPunchHole:
      return nbd_aio_zero(handle, io->len, io->off, done, 0);
  }
  PCACHE_CHECK(false);
}

void NbdConnection::issue(BlockIo* io) {
  PCACHE_DCHECK(state_ == State::kUp);
  if (makes_zeros(io->op) && !export_.makes_zeros) return finish(io, EOPNOTSUPP);
  io->carrier = this;
  issued_++;
  io->cookie = give(io);
  if (io->cookie >= 0) return;
  issued_--;
  const int code = nbd_get_errno();
  if (is_over()) return keep(io);
  finish(io, code ? code : EIO);
}

void NbdConnection::finish(BlockIo* io, int error) {
  io->result = error;
  finished_(io);
}

// From its beginning: what this server has of it may be lost with it.
void NbdConnection::keep(BlockIo* io) {
  io->progress = 0;
  if (server_.given_up()) return finish(io, ENOTCONN);
  waiting_.push(io);
  waiting_count_++;
}

void NbdConnection::take_answer(BlockIo* io, int error) {
  PCACHE_CHECK(issued_ > 0);
  issued_--;
  retire(io);
  if (!is_lost(error)) pause_ns_ = 0;  // it is a server that answers
  if (is_lost(error)) {
    if (state_ == State::kUp) state_ = State::kLeaving;
    return keep(io);
  }
  if (io->op == BlockOp::kFlush) {
    if (error == 0) server_.flushed(io->mark);
    return finish(io, error);
  }
  const int transferred = error ? -error : static_cast<int>(length_of(io) & INT32_MAX);
  if (!account_transfer(io, transferred, export_.block_bytes))
    return state_ == State::kUp ? issue(io) : keep(io);
  if (io->op != BlockOp::kRead && io->result == 0) server_.wrote();
  finished_(io);
}

void NbdConnection::take_answers() {
  while (BlockIo* io = answers_.pop()) take_answer(io, std::exchange(io->result, 0));
}

void NbdConnection::start(BlockIo* io) {
  if (state_ != State::kUp) return keep(io);
  issue(io);
  take_answers();
  look_at_handle();
  watch_socket();
}

void NbdConnection::connect() {
  auto handle = server_.begin_connect();
  if (!handle) return go_down(handle.error().code, handle.error().text);
  handle_ = handle.take();
  state_ = State::kConnecting;
  set_timer(kAttemptNs);
  look_at_handle();
  watch_socket();
}

void NbdConnection::come_up() {
  auto found = server_.examine(handle_.get());
  const bool is_first = server_.device().size_bytes == 0;
  if (found && !is_first)
    if (Status same = server_.compare(found.value()); !same) found = same.error();
  if (!found) {
    const Error error = found.error();
    nbd_aio_disconnect(handle_.get(), 0);
    if (!is_first && error.text != told_)
      server_.log().print(LogLevel::kError, "%s", error.text.c_str());
    told_ = error.text;
    return go_down(error.code, error.text);
  }
  export_ = found.take();
  state_ = State::kUp;
  set_timer(0);
  why_.clear();
  told_.clear();
  // A host that is gone ends no connection. Of a UNIX socket this is refused, and not needed.
  const int fd = nbd_aio_get_fd(handle_.get());
  for (const auto& [level, option, value] : kKeepAlive)
    (void)setsockopt(fd, level, option, &value, sizeof value);
  if (down_since_ns_ != 0)
    server_.log().print(LogLevel::kNotice, "backing device %s: connected again after %.1f s",
                        server_.name().c_str(),
                        static_cast<double>(now_ns() - down_since_ns_) / kSecondNs);
  down_since_ns_ = 0;
  BlockIoList all = std::exchange(waiting_, BlockIoList());
  waiting_count_ = 0;
  while (BlockIo* io = all.pop()) start(io);
}

void NbdConnection::go_down(int code, std::string why) {
  const bool was_up = state_ == State::kUp || state_ == State::kLeaving;
  take_answers();
  PCACHE_CHECK(issued_ == 0);
  watch_nothing();
  handle_.reset();
  state_ = State::kDown;
  why_code_ = code;
  why_ = std::move(why);
  if (was_up) {
    server_.lost_connection();
    down_since_ns_ = now_ns();
    if (!server_.given_up())
      server_.log().print(LogLevel::kWarning,
                          "backing device %s: the connection is lost (%s): what needs the device "
                          "waits until the server is back",
                          server_.name().c_str(), why_.c_str());
  }
  set_timer(std::max(pause_ns_, kShortestPauseNs));
  pause_ns_ = std::clamp(2 * pause_ns_, kShortestPauseNs, kLongestPauseNs);
}

void NbdConnection::look_at_handle() {
  if (!handle_) return;
  if (nbd_aio_is_dead(handle_.get()) != 0) {
    const int code = nbd_get_errno();
    go_down(code ? code : EIO, nbd_error_text());
  } else if (nbd_aio_is_closed(handle_.get()) != 0) {
    go_down(ENOTCONN, "the server has ended it");
  } else if (state_ == State::kConnecting) {
    if (nbd_aio_is_ready(handle_.get()) != 0) come_up();
  } else if (state_ == State::kLeaving && issued_ == 0) {
    go_down(ESHUTDOWN, "the server shuts down");
  }
}

void NbdConnection::pump() {
  look_at_handle();
  if (state_ != State::kUp && timer_is_over()) {
    if (state_ == State::kConnecting) go_down(ETIMEDOUT, "the server does not answer");
    if (state_ == State::kDown) connect();
  }
  if (server_.given_up() && state_ != State::kUp) {
    BlockIoList all = std::exchange(waiting_, BlockIoList());
    waiting_count_ = 0;
    while (BlockIo* io = all.pop()) finish(io, ENOTCONN);
  }
  // libnbd is told only of what is: without it, a socket that still connects looks connected to it,
  // and a handle that is told of an answer that has not come holds what it is given until one has.
  for (int rounds = 0; handle_ && rounds < kMostRounds; rounds++) {
    pollfd socket = {nbd_aio_get_fd(handle_.get()), socket_events(), 0};
    if (::poll(&socket, 1, 0) <= 0) break;
    const bool broken = socket.revents & (POLLERR | POLLHUP | POLLNVAL);
    const short ready = broken ? POLLIN | POLLOUT : socket.revents;
    // What goes wrong is seen in the handle's state.
    if (socket_events() & ready & POLLIN) (void)nbd_aio_notify_read(handle_.get());
    if (socket_events() & ready & POLLOUT) (void)nbd_aio_notify_write(handle_.get());
    take_answers();
    look_at_handle();
  }
  watch_socket();
}

void NbdConnection::add_to(BlockLink* link) {
  MutexLock lock(mu);
  pump();
  link->up += state_ == State::kUp;
  link->waiting += waiting_count_;
  if (state_ != State::kUp && link->why.empty()) link->why = why_.empty() ? "connecting" : why_;
}

void NbdConnection::wake() {
  MutexLock lock(mu);
  if (state_ != State::kUp) set_timer(1);
}

void NbdConnection::set_timer(int64_t ns) {
  itimerspec time = {};
  time.it_value = {ns / kSecondNs, ns % kSecondNs};
  PCACHE_CHECK(timerfd_settime(timer_.get(), 0, &time, nullptr) == 0);
}

bool NbdConnection::timer_is_over() {
  uint64_t times = 0;
  return read(timer_.get(), &times, sizeof times) == sizeof times;
}

short NbdConnection::socket_events() const {
  const unsigned direction = nbd_aio_get_direction(handle_.get());
  short events = 0;
  if (direction & LIBNBD_AIO_DIRECTION_READ) events |= POLLIN;
  if (direction & LIBNBD_AIO_DIRECTION_WRITE) events |= POLLOUT;
  return events;
}

void NbdConnection::watch_nothing() {
  if (watched_.valid()) (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watched_.get(), nullptr);
  watched_ = UniqueFd();
}

// A copy of the descriptor is watched. libnbd closes its own, but what the epoll watches lives on
// in a child that was forked meanwhile, and only who has the descriptor can take it out.
void NbdConnection::watch_socket() {
  static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT);
  if (!handle_) return;
  const int fd = nbd_aio_get_fd(handle_.get());
  const auto events = static_cast<uint32_t>(socket_events());
  if (fd < 0) return watch_nothing();
  // While it connects, it may close a socket and take another by the same number.
  if (!watched_.valid() || state_ == State::kConnecting) {
    struct stat now = {}, before = {};
    const bool same = watched_.valid() && fstat(fd, &now) == 0 &&
                      fstat(watched_.get(), &before) == 0 && now.st_ino == before.st_ino;
    if (!same) {
      watch_nothing();
      watched_ = UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0));
      watched_events_ = 0;
      epoll_event none = {0, {.fd = watched_.get()}};
      if (watched_.valid() && epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, watched_.get(), &none) != 0)
        watched_ = UniqueFd();
    }
  }
  epoll_event event = {events, {.fd = watched_.get()}};
  if (!watched_.valid()) return set_timer(kShortestPauseNs);  // until there is room for it
  if (events == watched_events_) return;
  PCACHE_CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, watched_.get(), &event) == 0);
  watched_events_ = events;
}

}  // namespace pcache
