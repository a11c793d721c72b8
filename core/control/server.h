// SPDX-License-Identifier: GPL-2.0-or-later
// ControlServer: answers commands at a control socket, in a thread of its own. CONTROL.md has the
// protocol.
//
// Invariants
// - Whatever comes from clients, and however many there are: it costs no more than Limits::clients
//   connections, a line of each, and an answer of each that is not taken.
// - A client that sends half a line, or does not take its answer, is dropped after
//   Limits::patience. One that is idle stays, until its place is needed.
// - A command is run by the server's thread, and so holds up the others; a drain, which may take
//   long, has a thread of its own, and is given up when nobody waits for it any more.
// - After stop() no command runs, and clients see that their connection has ended.
#pragma once

#include <atomic>
#include <chrono>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "control/socket.h"

namespace pcache {

class ControlServer {
 public:
  struct Limits {
    size_t clients = 64;
    std::chrono::milliseconds patience{10000};
  };

  // What the commands do. run() and give_up_drain() are called by the server's thread or stop(),
  // one at a time; drain() by another. They outlive the server.
  class Commands {
   public:
    virtual ~Commands() = default;
    // The text of the answer.
    virtual Result<std::string> run(std::string_view line) = 0;
    // Until `given_up`; then ECANCELED.
    virtual Status drain(const std::atomic<bool>& given_up) = 0;
    // Makes a drain() that runs, and has been given up, end soon; or lets the next one run.
    virtual void give_up_drain(bool on) = 0;
  };
  // EAGAIN and the like: no thread can be started.
  static Result<std::unique_ptr<ControlServer>> start(ControlSocket socket, Commands& commands,
                                                      const Limits& limits);
  static Result<std::unique_ptr<ControlServer>> start(ControlSocket socket, Commands& commands) {
    return start(std::move(socket), commands, Limits());
  }
  ~ControlServer() { stop(); }

  const std::string& path() const { return socket_.path(); }
  // One thread, which is not the server's. Idempotent.
  void stop();

 private:
  using Clock = std::chrono::steady_clock;
  struct Client {
    Client(UniqueFd connected, Clock::time_point now) : fd(std::move(connected)), since(now) {}
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    const UniqueFd fd;
    std::string in;           // the begin of a line
    std::string out;          // answers
    size_t sent = 0;          // of `out`
    bool ended = false;       // it sends nothing more
    bool drains = false;      // it waits for the drain that runs
    bool will_drain = false;  // or for the next one
    Clock::time_point since;  // of the last byte either way
    bool waits() const { return drains || will_drain; }
    bool owes() const { return !waits() && (!in.empty() || sent < out.size()); }
    bool is_busy() const { return waits() || sent < out.size(); }
  };

  ControlServer(ControlSocket socket, Commands& commands, const Limits& limits, UniqueFd wake);
  void run();
  // How long poll() may wait, in ms; -1: for ever.
  int patience() const;
  void accept_clients();
  bool make_place();
  // False: the client is to be dropped.
  bool serve(Client& client, short events);
  bool receive(Client& client);
  bool run_lines(Client& client);
  void run_line(Client& client, std::string_view line);
  bool send_out(Client& client);
  void start_drain();
  void end_drain();
  void give_up_if_alone();

  const ControlSocket socket_;
  Commands& commands_;
  const Limits limits_;
  const UniqueFd wake_;  // an eventfd: stopping, or a drain has ended
  std::list<Client> clients_;
  Clock::time_point accept_again_{};  // no descriptor was free
  std::atomic<bool> stopping_{false};

  std::thread drain_;
  std::atomic<bool> drain_given_up_{false};
  std::atomic<bool> drain_ended_{false};
  Status drained_;  // written before drain_ended_

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace pcache
