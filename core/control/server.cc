// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/no_thread.h"
#include "base/one_line.h"
#include "base/signals_blocked.h"
#include "control/protocol.h"

namespace pcache {

namespace {

constexpr int kAcceptsInARow = 16;
// While there are no descriptors, or there is no memory.
constexpr std::chrono::milliseconds kPause{100};
constexpr std::string_view kDrain = "drain";

std::string answer_of(const Result<std::string>& result) {
  if (result)
    return std::string(control::kOk) + " " + std::to_string(result.value().size()) + "\n" +
           result.value();
  std::string line = std::string(control::kError) + " " + std::to_string(result.error().code) +
                     " " + result.error().text;
  line.resize(std::min(line.size(), control::kMostLine - 1));
  make_one_line(line.data());
  return line + "\n";
}

std::string answer_of(const Status& status) {
  return answer_of(status ? Result<std::string>(std::string()) : status.error());
}

void wake_up(int eventfd) {
  const uint64_t one = 1;
  while (write(eventfd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::start(ControlSocket socket,
                                                            Commands& commands,
                                                            const Limits& limits) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return error_errno(errno, "control socket: no eventfd");
  std::unique_ptr<ControlServer> server(
      new ControlServer(std::move(socket), commands, limits, std::move(wake)));
  try {
    const SignalsBlocked blocked;
    server->thread_ = std::thread([self = server.get()] { self->run(); });
  } catch (const std::system_error& e) {
    return no_thread(e, "the control socket");
  }
  return server;
}

ControlServer::ControlServer(ControlSocket socket, Commands& commands, const Limits& limits,
                             UniqueFd wake)
    : socket_(std::move(socket)), commands_(commands), limits_(limits), wake_(std::move(wake)) {}

void ControlServer::stop() {
  stopping_.store(true);
  wake_up(wake_.get());
  if (thread_.joinable()) thread_.join();
  if (!drain_.joinable()) return;
  drain_given_up_.store(true);
  commands_.give_up_drain(true);
  drain_.join();
  commands_.give_up_drain(false);
}

int ControlServer::patience() const {
  auto until = Clock::time_point::max();
  for (const Client& client : clients_)
    if (client.owes()) until = std::min(until, client.since + limits_.patience);
  if (accept_again_ != Clock::time_point{}) until = std::min(until, accept_again_);
  if (until == Clock::time_point::max()) return -1;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
  return static_cast<int>(std::max<int64_t>(left.count() + 1, 0));
}

void ControlServer::run() {
  std::vector<pollfd> polled;
  while (!stopping_.load()) {
    try {
      polled.clear();
      polled.push_back({wake_.get(), POLLIN, 0});
      const bool accepts = Clock::now() >= accept_again_;
      if (accepts) accept_again_ = {};
      polled.push_back({accepts ? socket_.fd() : -1, POLLIN, 0});
      for (const Client& client : clients_) {
        // One answer at a time: who does not take it is not listened to.
        const bool listens = !client.is_busy() && !client.ended;
        polled.push_back({client.fd.get(),
                          static_cast<short>((listens ? POLLIN : 0) |
                                             (client.sent < client.out.size() ? POLLOUT : 0)),
                          0});
      }
      if (poll(polled.data(), polled.size(), patience()) < 0) {
        if (errno != EINTR) std::this_thread::sleep_for(kPause);
        continue;
      }
      if (polled[0].revents) {
        uint64_t ignored;
        (void)!read(wake_.get(), &ignored, sizeof ignored);
        if (drain_ended_.load()) end_drain();
      }
    } catch (const std::bad_alloc&) {
      clients_.clear();
      give_up_if_alone();
      std::this_thread::sleep_for(kPause);
      continue;
    }
    const auto now = Clock::now();
    size_t i = 2;
    for (auto client = clients_.begin(); client != clients_.end(); i++) {
      bool stays = !client->owes() || now < client->since + limits_.patience;
      try {
        if (stays && polled[i].revents) stays = serve(*client, polled[i].revents);
      } catch (const std::bad_alloc&) {
        stays = false;
      }
      client = stays ? std::next(client) : clients_.erase(client);
    }
    give_up_if_alone();
    if (polled[1].revents) accept_clients();
  }
  clients_.clear();
  (void)shutdown(socket_.fd(), SHUT_RDWR);
}

// A child that the program has forked has the descriptor, too: closing it alone says nothing.
ControlServer::Client::~Client() { (void)shutdown(fd.get(), SHUT_RDWR); }

void ControlServer::accept_clients() {
  for (int n = 0; n < kAcceptsInARow; n++) {
    UniqueFd fd(accept4(socket_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) {
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        accept_again_ = Clock::now() + kPause;
      return;
    }
    try {
      if (make_place()) {
        clients_.emplace_back(std::move(fd), Clock::now());
        continue;
      }
      const std::string busy = answer_of(
          Status(make_error(EBUSY, "%zu clients are being served: try again", clients_.size())));
      (void)!send(fd.get(), busy.data(), busy.size(), MSG_NOSIGNAL);
    } catch (const std::bad_alloc&) {
      return;  // it is closed
    }
  }
}

// Who has been idle for longest goes.
bool ControlServer::make_place() {
  if (clients_.size() < limits_.clients) return true;
  auto longest = clients_.end();
  for (auto client = clients_.begin(); client != clients_.end(); client++)
    if (!client->is_busy() && (longest == clients_.end() || client->since < longest->since))
      longest = client;
  if (longest == clients_.end()) return false;
  clients_.erase(longest);
  return true;
}

bool ControlServer::serve(Client& client, short events) {
  // Both ways are closed: what it has asked for nobody takes.
  if (events & (POLLHUP | POLLERR | POLLNVAL) && (!(events & POLLIN) || client.is_busy()))
    return false;
  if (events & POLLIN && !receive(client)) return false;
  if (!send_out(client) || !run_lines(client)) return false;
  return !client.ended || client.is_busy();
}

bool ControlServer::receive(Client& client) {
  char bytes[control::kMostLine];
  const size_t room = control::kMostLine - std::min(client.in.size(), control::kMostLine);
  if (room == 0) return true;
  const ssize_t n = recv(client.fd.get(), bytes, room, 0);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) {
    client.ended = true;
    if (!client.in.empty() && client.in.back() != '\n') client.in += '\n';
    return true;
  }
  client.since = Clock::now();
  client.in.append(bytes, static_cast<size_t>(n));
  return true;
}

// As many as are whole, until one has to be waited for.
bool ControlServer::run_lines(Client& client) {
  size_t end;
  while (!client.is_busy() && (end = client.in.find('\n')) != std::string::npos) {
    const std::string line = client.in.substr(0, end);
    client.in.erase(0, end + 1);
    run_line(client, line);
    if (!send_out(client)) return false;
  }
  if (client.in.size() < control::kMostLine || client.in.find('\n') != std::string::npos)
    return true;
  client.in.clear();
  client.ended = true;
  client.out += answer_of(
      Status(make_error(EINVAL, "a command has no more than %zu bytes", control::kMostLine - 1)));
  return send_out(client);
}

void ControlServer::run_line(Client& client, std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line == kDrain) {
    client.will_drain = true;
    if (!drain_.joinable()) start_drain();
    return;
  }
  client.out += answer_of(commands_.run(line));
}

bool ControlServer::send_out(Client& client) {
  while (client.sent < client.out.size()) {
    const ssize_t n = send(client.fd.get(), client.out.data() + client.sent,
                           client.out.size() - client.sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    client.sent += static_cast<size_t>(n);
    client.since = Clock::now();
  }
  client.out.clear();
  client.sent = 0;
  return true;
}

// For all who wait for the next one.
void ControlServer::start_drain() {
  for (Client& client : clients_)
    if (std::exchange(client.will_drain, false)) client.drains = true;
  drain_given_up_.store(false);
  drain_ended_.store(false);
  try {
    const SignalsBlocked blocked;
    drain_ = std::thread([this] {
      try {
        drained_ = commands_.drain(drain_given_up_);
      } catch (const std::bad_alloc&) {
        drained_ = out_of_memory();
      }
      drain_ended_.store(true);
      wake_up(wake_.get());
    });
    return;
  } catch (const std::system_error& e) {
    drained_ = no_thread(e, "a drain");
  } catch (const std::bad_alloc&) {
    drained_ = out_of_memory();
  }
  drain_ended_.store(true);
  wake_up(wake_.get());
}

// The answers are sent when poll() says that they can be. Without memory for them run() drops all.
void ControlServer::end_drain() {
  if (drain_.joinable()) drain_.join();
  drain_ended_.store(false);
  const std::string answer = answer_of(drained_);
  for (Client& client : clients_) {
    if (!std::exchange(client.drains, false)) continue;
    client.out = answer;
    client.since = Clock::now();
  }
  if (std::any_of(clients_.begin(), clients_.end(),
                  [](const Client& client) { return client.will_drain; }))
    start_drain();
}

// Who asked for the drain has gone.
void ControlServer::give_up_if_alone() {
  if (drain_.joinable() && std::none_of(clients_.begin(), clients_.end(),
                                        [](const Client& client) { return client.drains; }))
    drain_given_up_.store(true);
}

}  // namespace pcache
