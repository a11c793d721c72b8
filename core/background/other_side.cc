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

void Worker::tell_other_side(bool wants, bool stated) {
  if (!parts_.follows || !options_.bell) return;
  options_.bell->listen(wants || stated);
  options_.bell->want(wants);
  if (stated && !wants) options_.bell->ring();
}

// One that does not pass what was stated, since it is of another version, is to write it.
bool Worker::tell_or_end(const SpaceActions& actions, bool first, LogMark* head) {
  const uint64_t stated = writeback_.stated_ksets();
  const bool news = std::exchange(stated_there_, stated) != stated && stated > 0;
  if (news) stated_at_ = writing_.now();
  const bool late = stated > 0 && writing_.now() - stated_at_ >= kRungFollowPause;
  const bool wants = (actions.write_back || writeback_.behind(idle_until_)) &&
                     (late || !writeback_.needs_no_writing());
  const bool told = std::exchange(wanted_there_, wants);
  if (!first && (told || !wants) && !news) {
    end_following(wants, stated > 0);
    return false;
  }
  (void)parts_.stripes.close_all();  // the other side sees the log alone
  if (news) writeback_.say_what_is_stated();
  *head = parts_.log.mark();
  tell_other_side(wants, stated > 0);  // before the last look
  return true;
}

// Of a log that has been passed there is nothing to wait for: who waits all the same is told, see
// ask_for_writeback().
void Worker::end_following(bool wants, bool stated) {
  if (!(wants || stated) || !unwritten()) {
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
