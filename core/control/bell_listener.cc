// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/bell_listener.h"

#include <algorithm>
#include <utility>

#include "base/no_thread.h"
#include "base/signals_blocked.h"

namespace pcache {

using Milliseconds = Doorbell::Milliseconds;

Milliseconds beat_now() {
  using std::chrono::duration_cast;
  return std::max(duration_cast<Milliseconds>(std::chrono::system_clock::now().time_since_epoch()),
                  Milliseconds{1});
}

Result<std::unique_ptr<BellListener>> BellListener::start(const std::string& cache_path,
                                                          Doorbell& bell, Events events) {
  std::unique_ptr<BellListener> listener(new BellListener(cache_path, bell, std::move(events)));
  if (auto kept = listener->file_.keep(); !kept) return kept.error();
  try {
    const SignalsBlocked blocked;
    listener->thread_ = std::thread([self = listener.get()] { self->run(); });
  } catch (const std::system_error& e) {
    return no_thread(e, "the doorbell");
  }
  return listener;
}

BellListener::~BellListener() {
  stopping_.store(true);
  bell_.wake_self();
  if (thread_.joinable()) thread_.join();
}

// A ring that comes while the last one is answered has changed what is waited for.
void BellListener::run() {
  using std::chrono::duration_cast;
  auto beats_at = std::chrono::steady_clock::now();
  while (!stopping_.load()) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= beats_at) {
      (void)file_.keep();  // or it is tried again
      events_.beats();
      bell_.beat(beat_now());
      bell_.look(duration_cast<Milliseconds>(now.time_since_epoch()));
      beats_at = now + Doorbell::kBeat;
    }
    (void)bell_.wait(heard_, duration_cast<Milliseconds>(beats_at - now) + Milliseconds{1});
    const uint32_t before = std::exchange(heard_, bell_.rings_heard());
    if (heard_ != before && !stopping_.load()) events_.rung();
  }
}

}  // namespace pcache
