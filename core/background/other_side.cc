// SPDX-License-Identifier: GPL-2.0-or-later
// Worker where another process writes back: what it tells that, and how it waits for it.
#include <chrono>
#include <thread>

#include "background/worker.h"

namespace pcache {

namespace {

using Milliseconds = Worker::Milliseconds;

// Between two looks at what the other side has written back, while something waits for it; and
// where that rings.
constexpr Milliseconds kFollowPause{1}, kRungFollowPause{20};
// At the end: so long the other side has to make room for what is not in the log yet.
constexpr Milliseconds kMostFollowing{5000};

}  // namespace

void Worker::rung() { wake(writing_, writeback_id_); }

void Worker::tell_other_side(bool wants) {
  if (!parts_.follows || !options_.bell) return;
  options_.bell->listen(wants);
  options_.bell->want(wants);
}

// Of a log that has been passed there is nothing to wait for: who waits all the same is told, see
// ask_for_writeback().
void Worker::end_following(bool wants) {
  wants = wants && unwritten();
  if (!wants) {
    wanted_there_ = false;
    tell_other_side(false);
    if (options_.waiting_requests() > 0 && !unwritten()) wake(main_, room_id_);
    return;
  }
  if (stopping_.load(std::memory_order_acquire)) return;
  const bool rings = options_.bell && options_.bell->speaks();
  writing_.wake(writeback_id_, rings ? kRungFollowPause : kFollowPause);
}

void Worker::make_room(const std::function<bool()>& done) {
  SpaceCounts waited_for = counts();
  waited_for.waiting_requests = 1;  // the caller
  Writeback::Size batch = batch_for(waited_for);
  batch.live = LiveData::kWrite;
  const auto given_up = std::chrono::steady_clock::now() + kMostFollowing;
  tell_other_side(true);
  while (!done()) {
    const auto moved = writeback_.step(parts_.log.mark(), batch);
    const auto freed = reclaim_.step(Reclaim::Keep::kNothing);
    if ((moved && moved.value()) || (freed && freed.value())) continue;
    if (!parts_.follows || std::chrono::steady_clock::now() > given_up) return;
    std::this_thread::sleep_for(kFollowPause);
  }
}

}  // namespace pcache
