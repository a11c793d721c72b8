// SPDX-License-Identifier: GPL-2.0-or-later
#include "pcached/ending.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <thread>

namespace pcache {

namespace {

constexpr int kUnopened = 3;

bool is_ignored(int number) {
  struct sigaction action = {};
  return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

// Also of a loop that throws nothing is kept.
class Ending::Watched {
 public:
  Watched(Ending& ending, BackendLoop& loop) : ending_(ending) { ending_.watch(&loop); }
  ~Watched() { ending_.watch(nullptr); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

 private:
  Ending& ending_;
};

Ending::Ending() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM})
    if (!is_ignored(number)) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([this, signals] {
    int number = 0;
    sigwait(&signals, &number);
    end();
  }).detach();
}

void Ending::end() {
  const std::lock_guard lock(mu_);
  begun_ = true;
  if (loop_) loop_->stop();
}

void Ending::finish() {
  const std::lock_guard lock(mu_);
  finishing_ = true;
  if (loop_) loop_->finish();
}

Status Ending::run(BackendLoop& loop) {
  const Watched watched(*this, loop);
  return loop.run();
}

void Ending::watch(BackendLoop* loop) {
  const std::lock_guard lock(mu_);
  loop_ = loop;
  if (loop && finishing_) loop->finish();
  if (loop && begun_) loop->stop();
}

bool Ending::has_loop() {
  const std::lock_guard lock(mu_);
  return loop_;
}

uint64_t Ending::progress() {
  const std::lock_guard lock(mu_);
  if (!loop_) return 0;
  const Backend::Counters counters = loop_->state().counters;
  return counters.ksets + counters.passed_ksets;
}

Ending::Input Ending::input() const {
  if (!has_input_.load()) return Input::kNone;
  pollfd input{STDIN_FILENO, POLLIN, 0};
  const bool ended = input_ended_.load() || (poll(&input, 1, 0) == 1 && input.revents & POLLHUP);
  return ended ? Input::kEnded : Input::kOpen;
}

void Ending::watch_input(std::chrono::seconds patience) {
  signal(SIGPIPE, SIG_IGN);  // who has started it may have read what it says
  has_input_.store(true);
  std::thread([this, patience] { read_input(patience); }).detach();
}

void Ending::read_input(std::chrono::seconds patience) {
  std::string line;
  for (char c; line != "end\n";) {
    const ssize_t got = read(STDIN_FILENO, &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (!line.empty() && line.back() == '\n') line.clear();
    line += c;
  }
  input_ended_.store(true);
  if (line == "end\n") return end();
  finish();
  for (uint64_t before = progress();;) {
    std::this_thread::sleep_for(patience);
    const uint64_t now = progress();
    if (now == before) break;
    before = now;
  }
  fprintf(
      stderr,
      "pcached: nothing was written back for %lld s: it ends, and the rest stays in the cache\n",
      static_cast<long long>(patience.count()));
  if (!has_loop()) _exit(kUnopened);  // it hangs while it opens, or closes
  end();
}

}  // namespace pcache
