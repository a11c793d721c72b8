// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/worker.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/mutants.h"

namespace pcache {

namespace {

// Of a task that others wake: to be run by itself so seldom does no harm.
constexpr Worker::Milliseconds kWhenWoken{24 * 3600 * 1000};
// SpaceLimits::quiet_bytes are for so long.
constexpr Worker::Milliseconds kQuietInterval{5000};
// A reclaim_fault() that does not pass.
constexpr const char* kReclaimStandsStill = "the log is damaged";

// Between two looks at open ksets. Seen open at two of them means open for one pause at least and
// two at most.
Worker::Milliseconds tick_of(Worker::Milliseconds flush_delay) {
  return std::max(flush_delay / 2, Worker::Milliseconds{1});
}

// What the device had to write, of zeros too; a hole costs it next to nothing.
uint64_t given_bytes(const Writeback::Counters& counters) {
  return counters.written_bytes.load() + counters.zeroed_bytes.load();
}

Writeback::Size size_of(const SpaceActions& actions) {
  return {actions.batch_bytes, actions.depth, actions.live, actions.reason,
          actions.several_threads};
}

}  // namespace

Worker::Worker(const Parts& parts, Writeback& writeback, Reclaim& reclaim, Executor& main,
               Executor& writing, const Options& options)
    : parts_(parts),
      writeback_(writeback),
      reclaim_(reclaim),
      main_(main),
      writing_(writing),
      options_(options),
      gc_percent_(options.gc_percent),
      dirty_high_(options.dirty_limits.high_percent),
      dirty_low_(options.dirty_limits.low_percent),
      bytes_per_second_(options.dirty_limits.bytes_per_second),
      flush_delay_(options.flush_delay),
      writeback_interval_(options.writeback_interval) {
  PCACHE_CHECK(options.waiting_requests && options.retry_requests && options.fail_requests &&
               options.set_pace);
  PCACHE_CHECK(options.gc_percent <= media::kGcPercentMax);
}

void Worker::prepare() {
  PCACHE_CHECK(!prepared_ && stopping_.load(std::memory_order_relaxed));
  const auto once_started = [this](void (Worker::*task)()) {
    return [this, task] {
      if (!stopping_.load(std::memory_order_acquire)) (this->*task)();
    };
  };
  writeback_id_ = writing_.every(kWhenWoken, once_started(&Worker::writeback_task));
  tick_id_ = writing_.every(options_.writeback_interval, once_started(&Worker::writeback_tick));
  room_id_ = main_.every(options_.writeback_interval, once_started(&Worker::make_room_task));
  close_id_ = main_.every(tick_of(options_.flush_delay), once_started(&Worker::close_old));
  prepared_ = true;
}

void Worker::start() {
  if (!prepared_) prepare();
  dirty_at_tick_ = parts_.log.mark().dirty_bytes;
  stopping_.store(false, std::memory_order_release);
  if (decided().reclaim) wake(main_, room_id_);
  if (decided().clean) wake(writing_, writeback_id_);
}

void Worker::stop() {
  stopping_.store(true, std::memory_order_release);
  writeback_.give_up(true);  // a batch may be minutes of work
  writing_.stop();
  main_.stop();
  writeback_.give_up(false);
}

SpaceCounts Worker::counts() const {
  const SegmentCounts segments = parts_.segments.counts();
  SpaceCounts now;
  now.segments = segments.total;
  now.free_segments = segments.free;
  now.log_reserve_segments = segments.log_reserve;
  now.retired_segments = segments.retired;
  now.waiting_requests = options_.waiting_requests();
  now.waits_for_writeback = options_.waits_for_writeback && options_.waits_for_writeback();
  now.device_awaited = options_.waits && options_.waits->any();
  now.gc_percent = gc_percent();
  now.dirty_bytes = parts_.index.dirty_bytes();
  now.dirty_limits = dirty_limits();
  if (parts_.mode->answers().acks_on_device)
    now.dirty_limits.high_percent = now.dirty_limits.low_percent = 0;
  now.cleaning = cleaning();
  now.moving_pays = writeback_.moving_pays();
  now.reclaimable = parts_.tails.key_tail() != parts_.tails.dirty_tail();
  now.reclaim_stands_still = reclaim_stands_still();
  now.device_failing = failing_.load(std::memory_order_relaxed);
  return now;
}

SpaceCounts Worker::counts_at_dirty_tail() const {
  SpaceCounts now = counts();
  now.log_damaged = writeback_.log_damaged();
  now.all_passed = !unwritten();
  now.damaged_data_left = writeback_.stuck(parts_.log.mark());
  return now;
}

Writeback::Size Worker::batch_for(const SpaceCounts& now) const { return size_of(decided(now)); }

void Worker::space_taken() {
  const SpaceActions actions = decided();
  if (actions.throttle) options_.set_pace(true);
  if (actions.reclaim) wake(main_, room_id_);
  if (actions.clean && !cleaning()) wake(writing_, writeback_id_);
}

void Worker::space_freed() {
  SpaceCounts now = counts();
  now.throttled = true;  // if it is not, turning it off changes nothing
  if (!decided(now).throttle) options_.set_pace(false);
  if (now.waiting_requests > 0 && !hazard(Hazard::kFreedSpaceWakesNobody)) wake(main_, room_id_);
  if (now.device_awaited) wake(writing_, writeback_id_);  // the log had no room for their ksets
}

void Worker::request_waits() {
  if (!hazard(Hazard::kNobodyWakes)) wake(main_, room_id_);
}

void Worker::device_awaited() { wake(writing_, writeback_id_); }

void Worker::mode_changed() { wake(writing_, writeback_id_); }

void Worker::set_gc_percent(uint32_t percent) {
  PCACHE_CHECK(percent <= media::kGcPercentMax);
  gc_percent_.store(percent, std::memory_order_relaxed);
  wake(main_, room_id_);
}

void Worker::set_dirty_limits(const DirtyLimits& limits) {
  PCACHE_CHECK(limits.low_percent <= limits.high_percent && limits.high_percent <= 100);
  dirty_high_.store(limits.high_percent, std::memory_order_relaxed);
  dirty_low_.store(limits.low_percent, std::memory_order_relaxed);
  bytes_per_second_.store(limits.bytes_per_second, std::memory_order_relaxed);
  wake(writing_, writeback_id_);
}

void Worker::set_flush_delay(Milliseconds delay) {
  PCACHE_CHECK(prepared_);
  flush_delay_.store(delay, std::memory_order_relaxed);
  main_.set_interval(close_id_, tick_of(delay));
}

void Worker::set_writeback_interval(Milliseconds interval) {
  PCACHE_CHECK(prepared_);
  writeback_interval_.store(interval, std::memory_order_relaxed);
  writing_.set_interval(tick_id_, interval);
  main_.set_interval(room_id_, interval);
}

DirtyLimits Worker::dirty_limits() const {
  return {dirty_high_.load(std::memory_order_relaxed), dirty_low_.load(std::memory_order_relaxed),
          bytes_per_second_.load(std::memory_order_relaxed)};
}

void Worker::close_old() {
  const Status closed = parts_.stripes.close_old();
  if (!closed && !close_failed_ && !parts_.log.failed())  // which is said where it is found
    parts_.messages.print(LogLevel::kError, "closing ksets by time: %s",
                          closed.error().text.c_str());
  close_failed_ = !closed;
  if (decided().write_back && unwritten()) wake(writing_, writeback_id_);
}

// Asked in the order in which a key goes from one to the next, or one that goes on meanwhile would
// be seen in none of them.
bool Worker::unwritten() const {
  if (parts_.stripes.open_keys() > 0 || parts_.log.has_uncommitted()) return true;
  const LogMark head = parts_.log.mark();
  return writeback_.behind(head) && !writeback_.stuck(head);
}

void Worker::make_room_task() {
  options_.retry_requests();
  for (uint32_t steps = 0; decided().reclaim; steps++) {
    if (steps == kReclaimStepsInARow) {  // old ksets are to be closed, too
      wake(main_, room_id_);
      return;
    }
    if (stopping_.load(std::memory_order_acquire)) return;
    const auto freed = reclaim_.step(keeping());
    if (!freed) {
      note_reclaim_failed(freed.error());
      return;
    }
    if (reclaim_fault_.exchange(nullptr, std::memory_order_relaxed) != nullptr)
      parts_.messages.print(LogLevel::kNotice, "reclaim: goes on");
    options_.retry_requests();
    if (freed.value()) continue;
    // At dirty_tail.
    if (decided().write_back) ask_for_writeback();
    return;
  }
  if (options_.waiting_requests() > 0) ask_for_writeback();
}

// Credit comes with what is freed; a step that copies all that it frees would give none.
Reclaim::Keep Worker::keeping() const {
  if (gc_percent() == 0) return Reclaim::Keep::kNothing;
  return decided().throttle || options_.waiting_requests() > 0 ? Reclaim::Keep::kLittle
                                                               : Reclaim::Keep::kAll;
}

bool Worker::reclaim_stands_still() const {
  return parts_.tails.failed() ||
         reclaim_fault_.load(std::memory_order_relaxed) == kReclaimStandsStill;
}

void Worker::ask_for_writeback() {
  SpaceActions actions = decided(counts_at_dirty_tail());
  if (!actions.write_back) {
    // Nothing can be written back: nobody would grant credit.
    if (!actions.throttle) options_.set_pace(false);
    options_.retry_requests();
    // Meanwhile who went on may have written something, and writeback may have moved dirty_tail.
    const SpaceCounts now = counts_at_dirty_tail();
    actions = decided(now);
    if (actions.fail_waiting) options_.fail_requests(EIO);
    if (now.waiting_requests > 0 && !now.waits_for_writeback && now.reclaimable)
      wake(main_, room_id_);
  }
  if (actions.write_back) wake(writing_, writeback_id_);
}

void Worker::note_reclaim_failed(const Error& error) {
  const bool no_memory = error.code == ENOMEM;
  const char* const fault = no_memory ? "out of memory" : kReclaimStandsStill;
  if (reclaim_fault_.exchange(fault, std::memory_order_relaxed) != fault)
    parts_.messages.print(LogLevel::kError, "reclaim %s: %s",
                          no_memory ? "waits for memory" : "stands still", error.text.c_str());
  if (no_memory) {
    if (!stopping_.load(std::memory_order_acquire)) main_.wake(room_id_, kFirstBackoff);
    return;
  }
  // Nothing behind it can be reclaimed any more.
  options_.fail_requests(EIO);
  if (decided().write_back) wake(writing_, writeback_id_);
}

// While many writes come, what is written now may be superseded soon: then only want of space, or
// too much dirty data, makes writeback work.
void Worker::writeback_tick() {
  const LogMark head = parts_.log.mark();
  const uint64_t written = head.dirty_bytes - std::exchange(dirty_at_tick_, head.dirty_bytes);
  // A long interval may have more, a short one is too short to say that much is written.
  const auto scale = std::max(writeback_interval() / kQuietInterval, int64_t{1});
  const uint64_t quiet_bytes = options_.limits(parts_.segments.size()).quiet_bytes;
  if (written < quiet_bytes * static_cast<uint64_t>(scale)) idle_until_ = head;
  writeback_task();
}

void Worker::close_awaited(LogMark* head) {
  if (!options_.waits || !options_.waits->take_arrived()) return;
  const Status closed = parts_.stripes.close_open();
  *head = parts_.log.mark();
  if (closed)
    options_.waits->mark(head->ksets);
  else if (parts_.log.failed() || reclaim_stands_still())
    options_.waits->fail(EIO);
}

bool Worker::others_await(const LogMark& head) {
  if (!options_.waits) return false;
  // What is left of it is damaged, which their own data is not: data_lost() would have failed them.
  if (!writeback_.behind(head) || writeback_.stuck(head)) options_.waits->passed(head.ksets);
  return options_.waits->has_arrived();
}

void Worker::writeback_task() {
  if (writeback_.log_damaged() && options_.waits) options_.waits->fail(EIO);
  if (retries() && writing_.now() < retry_at_) {
    // Running now has used up the wake that note_failure() asked for.
    writing_.wake(writeback_id_, retry_at_ - writing_.now());
    return;
  }
  // Up to here and no further: damaged data is appended again, and would never end.
  LogMark head = parts_.log.mark();
  bool closed = false;
  while (const std::optional<SpaceActions> actions = next_step()) {
    close_awaited(&head);
    const bool wanted = actions->write_back || retries() || parts_.follows;
    const Writeback::Counters& counters = writeback_.counters();
    const uint64_t written = given_bytes(counters), flushes = counters.flushes.load();
    const auto moved = writeback_.step(wanted ? head : idle_until_, size_of(*actions));
    if (actions->bytes_per_second > 0) ahead_bytes_ += given_bytes(counters) - written;
    if (!moved) {
      // ECANCELED: it was given up, which is no fault of the device.
      if (!stopping_.load(std::memory_order_acquire) && moved.error().code != ECANCELED)
        note_failure(moved.error());
      return;
    }
    // What needs no device says nothing about it, but there was memory for it.
    if (!device_failed_ || counters.flushes.load() > flushes) note_success();
    if (moved.value()) {
      if (decided().reclaim || options_.waiting_requests() > 0) wake(main_, room_id_);
      continue;
    }
    if (others_await(head)) continue;
    if (parts_.follows) {
      if (tell_or_end(*actions, !std::exchange(closed, true), &head)) continue;
      return;
    }
    if (actions->live == LiveData::kLeaveAll) return;  // reclaim asks again
    // Keys that are still in DRAM can only be passed once they are in the log.
    if (closed || !decided().write_back) {
      // Nothing is left that could be: what waits has to be told, see ask_for_writeback().
      if (options_.waiting_requests() > 0 && !unwritten()) wake(main_, room_id_);
      return;
    }
    closed = true;
    const Status all = parts_.stripes.close_all();
    (void)all;  // a log that is full: what was closed is tried again by the next who commits
    head = parts_.log.mark();
  }
  if (parts_.follows) end_following(false);
}

std::optional<SpaceActions> Worker::next_step() {
  const SpaceActions actions = decided();
  cleaning_.store(actions.clean, std::memory_order_relaxed);
  if (stopping_.load(std::memory_order_acquire) ||
      !(actions.write_back || retries() || writeback_.behind(idle_until_) ||
        (parts_.follows && writeback_.behind(parts_.log.mark()))))
    return std::nullopt;
  const Milliseconds wait = wait_for_rate(actions.bytes_per_second);
  if (wait.count() == 0) return actions;
  writing_.wake(writeback_id_, wait);
  return std::nullopt;
}

Worker::Milliseconds Worker::wait_for_rate(uint64_t bytes_per_second) {
  const Milliseconds now = writing_.now();
  const auto elapsed_ms = static_cast<uint64_t>((now - ahead_at_).count());
  ahead_at_ = now;
  if (bytes_per_second == 0 || elapsed_ms >= ahead_bytes_ * 1000 / bytes_per_second) {
    ahead_bytes_ = 0;
    return Milliseconds{0};
  }
  ahead_bytes_ -= elapsed_ms * bytes_per_second / 1000;
  return Milliseconds{std::max<uint64_t>(ahead_bytes_ * 1000 / bytes_per_second, 1)};
}

void Worker::note_failure(const Error& error) {
  Milliseconds backoff;
  const Writeback::Counters& counters = writeback_.counters();
  const uint64_t written = given_bytes(counters) + counters.hole_bytes.load();
  const bool nothing_written = written == written_at_failure_;
  written_at_failure_ = written;
  device_failed_ |= error.code != ENOMEM && error.code != EAGAIN;
  {
    MutexLock lock(state_mu_);
    if (!state_.failing)
      parts_.messages.print(LogLevel::kError,
                            "writeback: %s; the data stays dirty in the cache, and is tried again",
                            error.text.c_str());
    if (hazard(Hazard::kRetryWithoutDelay))
      backoff = Milliseconds{1};
    else
      backoff = state_.failing && nothing_written ? std::min(2 * state_.backoff, kLongestBackoff)
                                                  : kFirstBackoff;
    PCACHE_CHECK(backoff <= kLongestBackoff);
    state_.failing = true;
    state_.backoff = backoff;
    try {
      state_.last_error = error.text;
    } catch (const std::bad_alloc&) {
      state_.last_error = "out of memory";  // is kept in the string itself
    }
  }
  failing_.store(true, std::memory_order_relaxed);
  if (options_.waits && error.code != ENOMEM && error.code != EAGAIN)
    options_.waits->fail(writeback_.log_damaged() ? EIO : error.code);
  if (writeback_.log_damaged()) wake(main_, room_id_);
  options_.set_pace(false);  // no credit comes: what space is left is for who comes first
  options_.retry_requests();
  retry_at_ = writing_.now() + backoff;
  PCACHE_DCHECK(retry_at_.count() > 0);  // 0 says that nothing has failed
  if (!stopping_.load(std::memory_order_acquire)) writing_.wake(writeback_id_, backoff);
}

void Worker::note_success() {
  retry_at_ = Milliseconds{0};
  const bool device_failed = std::exchange(device_failed_, false);
  failing_.store(false, std::memory_order_relaxed);
  MutexLock lock(state_mu_);
  if (state_.failing)
    parts_.messages.print(
        LogLevel::kNotice, "writeback: %s",
        device_failed ? "the backing device works again" : "there is memory again");
  state_.failing = false;
  state_.backoff = Milliseconds{0};
}

Worker::State Worker::state() const {
  MutexLock lock(state_mu_);
  return state_;
}

Status Worker::drain(const std::atomic<bool>* given_up) {
  const Writeback::Drain drain(writeback_);
  Status closed = parts_.stripes.close_all();
  // Of a log that has failed what is in it can still be saved.
  if (!closed && !parts_.log.failed()) return closed;
  const LogMark until = parts_.log.mark();
  uint64_t unwritten = UINT64_MAX;  // by the steps before, which failed
  uint32_t vain = 0;
  SpaceCounts draining = counts();
  draining.draining = true;
  const Writeback::Size batch = batch_for(draining);
  while (writeback_.behind(until)) {
    if (given_up && given_up->load(std::memory_order_relaxed))
      return undrained(make_error(ECANCELED, "the drain was given up"), until);
    const auto moved = writeback_.step(until, batch);
    if (!moved) {
      const uint64_t left = writeback_.unwritten_bytes();
      vain = left < unwritten ? 0 : vain + 1;
      const bool lost = moved.error().code == kWritesLost;
      if ((left == 0 && !lost) || vain == kVainSteps) return undrained(moved.error(), until);
      unwritten = left;
      continue;
    }
    unwritten = UINT64_MAX;
    vain = 0;
    if (!moved.value()) break;
    if (decided().reclaim || options_.waiting_requests() > 0) wake(main_, room_id_);
  }
  if (!closed) return closed;
  if (parts_.tails.failed())
    return make_error(
        EIO,
        "all is on the backing device, but a media error in the page at %llu keeps the "
        "cache from knowing it: the next attach will write it there again",
        static_cast<unsigned long long>(media::kCacheCtrlOff));
  const uint64_t bad = writeback_.damaged_extents();
  if (bad == 0) return {};
  return make_error(EIO,
                    "%llu extents of dirty data are damaged and were not written back; their "
                    "ranges are in the log lines",
                    static_cast<unsigned long long>(bad));
}

Error Worker::undrained(const Error& why, const LogMark& until) const {
  const uint64_t passed = std::min(writeback_.passed_dirty_bytes(), until.dirty_bytes);
  return make_error(why.code, "%s; %llu bytes of dirty data are left in the cache",
                    why.text.c_str(), static_cast<unsigned long long>(until.dirty_bytes - passed));
}

Result<bool> Worker::move_step() {
  Writeback::Size batch = batch_for(counts());
  batch.live = LiveData::kMoveAnyhow;
  return writeback_.step(parts_.log.mark(), batch);
}

}  // namespace pcache
