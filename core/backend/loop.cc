// SPDX-License-Identifier: GPL-2.0-or-later
#include "backend/loop.h"

#include <algorithm>
#include <utility>

namespace pcache {

namespace {

using Milliseconds = BackendLoop::Milliseconds;
using Clock = std::chrono::steady_clock;
using std::chrono::duration_cast;

// Until the front has put something into the log.
constexpr Milliseconds kShortestPause{1}, kLongestPause{16};
constexpr Milliseconds kFirstBackoff{100}, kLongestBackoff{10000};

Milliseconds steady_now() { return duration_cast<Milliseconds>(Clock::now().time_since_epoch()); }

}  // namespace

BackendLoop::BackendLoop(Backend& backend, Doorbell& bell, Options options)
    : backend_(backend), bell_(bell), options_(std::move(options)), once_(options_.once) {
  MutexLock lock(mu_);
  state_.since = state_.front_changed = std::chrono::system_clock::now();
}

void BackendLoop::stop() {
  stopping_.store(true);
  backend_.give_up();
  bell_.wake_self();
}

void BackendLoop::finish() {
  once_.store(true);
  bell_.wake_self();
}

BackendLoop::State BackendLoop::state() const {
  MutexLock lock(mu_);
  return state_;
}

const char* BackendLoop::text_of(Doing doing) {
  switch (doing) {
    case Doing::kWriting:
      return "writes back";
    case Doing::kNothingDirty:
      return "nothing is dirty";
    case Doing::kNotWanted:
      return "waits until the front wants it";
    case Doing::kRetrying:
      break;
  }
  return "failing";
}

void BackendLoop::beat_if_due() {
  bell_.look(steady_now());
  if (Clock::now() < beats_at_) return;
  beats_at_ = Clock::now() + Doorbell::kBeat;
  if (options_.beats) options_.beats();
  look_at_front();
}

bool BackendLoop::is_not_wanted() const {
  return !finishing() && bell_.speaks() && !bell_.wanted() && front_is_there();
}

void BackendLoop::look_at_front() {
  const bool is_there = front_is_there();
  MutexLock lock(mu_);
  if (std::exchange(state_.front_is_there, is_there) != is_there)
    state_.front_changed = std::chrono::system_clock::now();
}

void BackendLoop::note(Doing doing, const std::string& error) {
  MutexLock lock(mu_);
  state_.counters = backend_.counters();
  if (state_.doing == doing && state_.error == error) return;
  state_.since = std::chrono::system_clock::now();
  state_.doing = doing;
  state_.error = error;
}

void BackendLoop::note_counters() {
  MutexLock lock(mu_);
  state_.counters = backend_.counters();
}

void BackendLoop::rest(Milliseconds most, Until end, uint32_t heard) {
  const auto latest = Clock::now() + most;
  while (!stopping_.load()) {
    beat_if_due();
    if (end == Until::kWanted && !is_not_wanted()) return;
    const auto now = Clock::now();
    if (now >= latest) return;
    const Milliseconds left =
        duration_cast<Milliseconds>(std::min(latest, beats_at_) - now) + Milliseconds{1};
    (void)bell_.wait(heard, left);
    const uint32_t before = std::exchange(heard, bell_.rings_heard());
    if (heard != before) return;
  }
}

// What the front does not need is passed at any time. An error a step meets, too.
bool BackendLoop::pass() {
  const auto passed = backend_.pass();
  if (!passed || !passed.value()) return false;
  note_counters();
  bell_.ring();
  return true;
}

// It listens before the last look, so no ring is lost.
void BackendLoop::wait_for_front() {
  note(Doing::kNotWanted);
  const uint32_t heard = bell_.listen();
  if (is_not_wanted() && !pass()) rest(options_.interval, Until::kWanted, heard);
  bell_.listen(false);
}

// A front that wants something rings at once.
void BackendLoop::let_front_look() {
  const uint32_t heard = bell_.listen();
  bell_.ring();
  if (!finishing() && bell_.speaks() && front_is_there())
    rest(options_.front_looks, Until::kRung, heard);
  bell_.listen(false);
}

void BackendLoop::back_off(Milliseconds most) {
  const auto latest = Clock::now() + most;
  while (!stopping_.load() && Clock::now() < latest) {
    const uint32_t heard = bell_.listen();
    if (finishing()) break;
    if (!pass())
      rest(duration_cast<Milliseconds>(latest - Clock::now()) + Milliseconds{1}, Until::kRung,
           heard);
  }
  bell_.listen(false);
}

Status BackendLoop::run() {
  Milliseconds pause = kShortestPause, backoff{0};
  bool listens = false;
  uint32_t heard = 0;
  std::string said;  // what is wrong
  while (!stopping_.load()) {
    beat_if_due();
    if (is_not_wanted()) {
      wait_for_front();
      pause = kShortestPause;
      continue;
    }
    auto stepped = backend_.step();
    const bool nothing = stepped && !Backend::has_moved(stepped.value());
    if (!nothing && std::exchange(listens, false)) bell_.listen(false);
    if (!stepped) {
      if (stopping_.load()) break;
      if (finishing()) return stepped.error();
      if (stepped.error().text != said) options_.say(said = stepped.error().text);
      backoff = backoff.count() == 0 ? kFirstBackoff : std::min(2 * backoff, kLongestBackoff);
      note(Doing::kRetrying, stepped.error().text);
      back_off(backoff);
      continue;
    }
    if (stepped.value() == Backend::Step::kPassed) {
      note_counters();
      let_front_look();
      pause = kShortestPause;
      continue;
    }
    if (stepped.value() == Backend::Step::kMoved) {
      note(Doing::kWriting);
      bell_.ring();
      if (std::exchange(backoff, Milliseconds{0}).count() > 0) options_.say("goes on");
      said.clear();
      pause = kShortestPause;
      continue;
    }
    if (finishing() && stepped.value() == Backend::Step::kNothing) return {};
    note(Doing::kNothingDirty);
    if (!std::exchange(listens, true)) {
      heard = bell_.listen();  // and looks once more
      continue;
    }
    rest(pause, Until::kRung, heard);
    bell_.listen(listens = false);
    pause = finishing() ? kShortestPause : std::min(2 * pause, kLongestPause);
  }
  if (finishing()) return make_error(ECANCELED, "told to end before all was written back");
  return {};
}

}  // namespace pcache
