// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/writeback.h"

#include <algorithm>
#include <chrono>
#include <new>

#include "base/mutants.h"

namespace pcache {

using media::Key;

namespace {

// How often data is moved that writes cut meanwhile, before it is written instead.
constexpr int kMostTries = 3;
// How often all is written again at once that a server may have lost.
constexpr int kMostLosses = 16;

}  // namespace

Result<std::unique_ptr<Writeback>> Writeback::create(const Parts& parts, const Options& options) {
  std::unique_ptr<Writeback> writeback(new Writeback(parts, options));
  if (parts.follows) return writeback;
  auto out = WriteOuts::create(
      {parts.pmem, parts.segments, parts.backing, parts.data_crc},
      {.written = [self = writeback.get()](uint64_t bytes)
                      NO_THREAD_SAFETY_ANALYSIS { self->note_written(bytes); },
       .zeroed = [self = writeback.get()](uint64_t bytes)
                     NO_THREAD_SAFETY_ANALYSIS { self->note_done(bytes); },
       .before_wait = [self = writeback.get()]() NO_THREAD_SAFETY_ANALYSIS { self->tell_kept(); }},
      options.threads);
  if (!out) return out.error();
  writeback->out_ = out.take();
  return writeback;
}

Writeback::Writeback(const Parts& parts, const Options& options)
    : parts_(parts),
      options_(options),
      settler_(parts, {.data_lost = options.data_lost,
                       .marked = [this](size_t part, size_t all)
                                     NO_THREAD_SAFETY_ANALYSIS { note_marked(part, all); }}),
      superseded_(parts),
      mover_(parts, options.stored),
      wants_strict_(options.strict) {
  PCACHE_CHECK(options.most_under_way >= 1);
  under_way_.reserve(options.most_under_way);
}

Counter& Writeback::written_for(WriteReason reason) {
  switch (reason) {
    case WriteReason::kIdle:
      return counters_.idle_bytes;
    case WriteReason::kSpace:
      return counters_.space_bytes;
    case WriteReason::kAwaited:
      return counters_.awaited_bytes;
    case WriteReason::kDirtyLimit:
      return counters_.limit_bytes;
    case WriteReason::kDrain:
      break;
  }
  return counters_.drain_bytes;
}

// A batch passes more bytes than it writes, since superseded data is skipped: each byte written
// stands for its share of all. Some is left for marking, so that who is let in by progress need not
// wait until that is done.
void Writeback::note_written(uint64_t bytes) {
  counters_.written_bytes.add(bytes);  // at once: who waits for a slow device sees that it works
  written_for(reason_).add(bytes);
  note_done(bytes);
}

void Writeback::note_done(uint64_t bytes) {
  if (hazard(Hazard::kBatchNotWaitedFor) && writing_ == under_way_.size()) return;
  PCACHE_CHECK(writing_ < under_way_.size());
  Batch& batch = under_way_[writing_];
  PCACHE_CHECK(batch.plan.planned_bytes > 0);
  const uint64_t all = batch.plan.freed_bytes();
  note_progress(batch, bytes * (all - all / kMarkingShare) / batch.plan.planned_bytes);
}

void Writeback::note_marked(size_t part, size_t all) {
  Batch& batch = under_way_[writing_];
  note_progress(batch, batch.plan.freed_bytes() / kMarkingShare * part / all);
  tell_kept();
}

// The batch is not under way yet: what is told goes to whichever begins next.
void Writeback::note_moved(const BatchPlan& plan, uint64_t bytes) {
  if (parts_.follows) return;  // nothing comes free until the other process has passed it
  const uint64_t all = plan.freed_bytes() - plan.freed_bytes() / kMarkingShare;
  const auto share = static_cast<uint64_t>(static_cast<double>(all) * static_cast<double>(bytes) /
                                           static_cast<double>(plan.moved_bytes));
  const uint64_t n = share - std::min(share, credit_ahead_);
  if (n == 0) return;
  credit_ahead_ += n;
  kept_progress_ += n;
  tell_kept();
}

void Writeback::note_progress(Batch& batch, uint64_t appended_bytes) {
  const uint64_t all = batch.plan.freed_bytes();
  PCACHE_CHECK(batch.credited_bytes <= all);
  const uint64_t n = std::min(appended_bytes, all - batch.credited_bytes);
  batch.credited_bytes += n;
  kept_progress_ += n;
}

void Writeback::tell_kept() {
  const uint64_t bytes = std::exchange(kept_progress_, 0);
  if (bytes > 0 && options_.progress) options_.progress(bytes);
}

Error Writeback::failed(Error error) {
  counters_.errors.add();
  return error;
}

uint64_t Writeback::damaged_extents() {
  MutexLock lock(mu_);
  const uint64_t count = settler_.damaged_extents();
  counters_.bad_keys.set(count);
  return count;
}

Result<bool> Writeback::step(const LogMark& until, const Size& size) {
  MutexLock lock(mu_);
  Result<bool> result = false;
  for (int losses = 0;; losses++) {
    try {
      result = step_once(until, size);
    } catch (const std::bad_alloc&) {
      result = failed(out_of_memory());
    }
    // A server that is back takes what it has lost.
    if (result || result.error().code != kWritesLost || losses == kMostLosses) break;
  }
  tell_kept();
  return result;
}

Result<bool> Writeback::step_once(const LogMark& until, const Size& size) {
  if (!behind(until)) return false;
  if (parts_.follows) {
    strict_ = true;
    auto followed = follow(size);
    if (followed && !followed.value()) needs_no_writing_.store(state_passable(until, size));
    return followed;
  }
  reason_ = size.reason;
  strict_ = strict();
  if (written_unknown_) forget();
  if (auto planned = plan_batches(until, size); !planned) return failed(planned.error());
  if (under_way_.empty()) return false;
  if (auto written = write_batches(size); !written) return failed(written.error());
  if (auto settled = settle_batches(); !settled) return failed(settled.error());
  return true;
}

void Writeback::forget() {
  for (const Batch& batch : under_way_) {
    credit_ahead_ += batch.credited_bytes;
    copied_ahead_ += batch.plan.moved_bytes + batch.plan.copied_bytes;
  }
  if (!under_way_.empty()) spare_ = std::move(under_way_.front().plan);
  under_way_.clear();
  written_unknown_ = false;
}

Status Writeback::plan_batches(const LogMark& until, const Size& size) {
  while (under_way_.size() < options_.most_under_way) {
    const auto planned = plan_one(until, size);
    if (planned && planned.value()) continue;
    // What is wrong behind a batch is met again when it is the first.
    return planned || !under_way_.empty() ? Status() : planned.error();
  }
  return {};
}

std::optional<PlanOptions> Writeback::next_plan(const LogMark& until, uint64_t batch_bytes) {
  PlanOptions options;
  options.from = under_way_.empty() ? settler_.settled() : under_way_.back().plan.end;
  options.end_ksets = until.ksets;
  options.batch_bytes = batch_bytes;
  options.strict = strict_;
  options.zeros_count = !out_->makes_holes();
  options.in_epoch = std::any_of(under_way_.begin(), under_way_.end(), [](const Batch& batch) {
    return batch.plan.epoch_from != BatchPlan::kNoEpoch;
  });
  options.end_ksets = std::min(options.end_ksets, settler_.farthest_end());
  if (options.from.ksets >= options.end_ksets) return std::nullopt;
  if (!under_way_.empty())
    options.busy = [this](const Extent& extent) NO_THREAD_SAFETY_ANALYSIS {
      return std::any_of(under_way_.begin(), under_way_.end(),
                         [&extent](const Batch& batch) { return batch.plan.writes_to(extent); });
    };
  return options;
}

void Writeback::ask_fates(PlanOptions* options, Pass pass) {
  const auto damaged = settler_.fate();
  superseded_.forget();
  if (pass == Pass::kNone) {
    if (damaged)
      options->fate = [this, damaged](const Key& key, uint64_t) NO_THREAD_SAFETY_ANALYSIS {
        const KeyFate fate = damaged(key);
        if (fate == KeyFate::kPass) (void)superseded_.is_superseded(key);
        return fate;
      };
    return;
  }
  options->prefetch = [this](std::span<const Key> keys)
                          NO_THREAD_SAFETY_ANALYSIS { superseded_.prefetch(keys); };
  options->fate = [this, damaged, pass, from = passable_from()](const Key& key, uint64_t kset)
                      NO_THREAD_SAFETY_ANALYSIS {
                        const KeyFate fate = damaged ? damaged(key) : KeyFate::kWrite;
                        if (fate == KeyFate::kPass) (void)superseded_.is_superseded(key);
                        if (fate != KeyFate::kWrite || kset < from) return fate;
                        if (superseded_.is_superseded(key)) return KeyFate::kSuperseded;
                        // Zeros cost the device less than a place of their own would cost here.
                        const bool moves = pass == Pass::kMoved && !(key.flags & media::kKeyZeros);
                        return moves ? KeyFate::kMove : fate;
                      };
}

// Nobody can say of keys in ksets before that one whether what superseded them is of their epoch.
uint64_t Writeback::passable_from() const {
  return strict_ && !hazard(Hazard::kSupersededAcrossABarrier) ? parts_.log.last_epoch_from() : 0;
}

Status Writeback::plan_as(PlanOptions options, const LogMark& until, Pass pass, BatchPlan* plan) {
  ask_fates(&options, pass);
  LogKsets log(parts_.pmem, parts_.segments, options.from.pos, until.pos);
  if (auto made = make_plan(log, options, plan); !made) return made;
  plan->copied_bytes = std::min(copied_ahead_, plan->freed_bytes());
  if (!plan->moves.empty())
    plan->moves = parts_.stripes.grouped(std::span<const Key>(plan->moves), off_of_key);
  return {};
}

bool Writeback::move(const BatchPlan& plan) {
  const std::span<const Key> all(plan.moves);
  const auto begin = std::chrono::steady_clock::now();
  const uint64_t before = mover_.counters().moved_bytes.load();
  bool moved = true;
  uint64_t passed_bytes = 0;
  for (size_t at = 0; at < all.size();) {
    const auto run = parts_.stripes.run_from(all, at, off_of_key);
    superseded_.add_moved(run.front());
    uint64_t run_bytes = 0;
    for (const Key& key : run) run_bytes += key.len;
    const uint64_t copied_before = mover_.counters().moved_bytes.load();
    // Again, if a write has cut what was copied.
    bool run_moved = mover_.move(run);
    for (int tries = 0; !run_moved && tries < kMostTries; tries++) run_moved = mover_.move(run);
    moved &= run_moved;
    // As BatchPlan::moved_bytes counts it; what was in vain goes by what it has taken.
    copied_ahead_ += run_moved ? run_bytes : mover_.counters().moved_bytes.load() - copied_before;
    at += run.size();
    passed_bytes += run_bytes;
    note_moved(plan, passed_bytes);
  }
  const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - begin;
  costs_.moved(mover_.counters().moved_bytes.load() - before, static_cast<uint64_t>(took.count()));
  return moved;
}

bool Writeback::secure(const BatchPlan& plan, const LogMark& until, LiveData live) {
  const bool moved = move(plan);
  const Status durable = superseded_.make_durable();
  if (plan.passed_from == BatchPlan::kNoEpoch) return true;
  if (live == LiveData::kDrain && parts_.log.mark().ksets != until.ksets) return false;
  return (moved || hazard(Hazard::kFailedMovePassed)) && durable &&
         plan.passed_from >= passable_from();
}

// Passes as much as can be; what cannot is written. What was moved in vain is superseded now, and
// its old place still has the data. False: what there is to do is left.
Result<bool> Writeback::make_passable(const PlanOptions& options, const LogMark& until,
                                      LiveData live, BatchPlan* plan) {
  const bool moves_none = live == LiveData::kWrite || live == LiveData::kDrain;
  const bool awaited =
      options_.waits && options_.waits->holds() && !hazard(Hazard::kSupersededNotOnDevice);
  // A log that has failed takes nothing that could supersede.
  const bool passes_none =
      awaited || drains_ > (live == LiveData::kDrain ? 1u : 0u) || parts_.log.failed();
  if (!moves_none && !passes_none) {
    if (auto made = plan_as(options, until, Pass::kMoved, plan); !made) return made.error();
    if (live == LiveData::kLeaveAll && !(plan->moves.empty() && plan->batch.keys().empty()))
      return false;
    // Data that has to be written is of an epoch that is over: nothing behind it can be moved.
    const bool pays =
        !plan->writes_data() && costs_.moving_pays(plan->live_bytes(), plan->passed_bytes());
    if (plan->passed_bytes() > 0) moving_pays_.store(pays, std::memory_order_relaxed);
    if (pays && live == LiveData::kLeave && !plan->moves.empty()) return false;
    const bool moves = pays || live == LiveData::kMoveAnyhow;
    if ((moves || plan->moves.empty()) && secure(*plan, until, live)) return true;
  }
  if (!passes_none && (moves_none || !plan->moves.empty())) {
    if (auto made = plan_as(options, until, Pass::kSuperseded, plan); !made) return made.error();
    if (secure(*plan, until, live)) return true;
  }
  if (auto made = plan_as(options, until, Pass::kNone, plan); !made) return made.error();
  // Of what was damaged and overwritten. Nothing better can be done if the log does not take it.
  (void)superseded_.make_durable();
  return true;
}

Result<bool> Writeback::plan_one(const LogMark& until, const Size& size) {
  const std::optional<PlanOptions> options = next_plan(until, size.bytes);
  if (!options) return false;
  const bool is_first = under_way_.empty();
  BatchPlan plan = std::exchange(spare_, {});
  const auto made = make_passable(
      *options, until, is_first || size.live == LiveData::kDrain ? size.live : LiveData::kWrite,
      &plan);
  if (!made) {
    if (hazard(Hazard::kMediaErrorIsClean)) return false;
    // Ksets that were acknowledged cannot be read any more.
    if (is_first && !log_damaged_.exchange(true)) {
      if (options_.data_lost) options_.data_lost(EIO);
      if (options_.waits) options_.waits->data_lost();
    }
    return made.error();
  }
  if (!made.value()) {
    spare_ = std::move(plan);
    return false;
  }
  PCACHE_CHECK(!is_first || !plan.empty());  // nothing is in its way
  // With more behind it, what is damaged is passed, so that the next step meets that first: it may
  // be a kset that cannot be read.
  const bool is_all = plan.end.ksets == options->end_ksets;
  if (plan.empty() || (plan.has_only_damaged() && is_all && !settler_.has_appended())) {
    if (is_first) stuck_at_.store(until.ksets, std::memory_order_relaxed);
    spare_ = std::move(plan);
    return false;
  }
  begin(std::move(plan));
  return true;
}

// Takes all the memory that the batch needs until it is settled, but for damaged data.
void Writeback::begin(BatchPlan plan) {
  Batch batch;
  batch.order = settler_.order_of(plan);
  batch.written = nothing_written(plan);
  batch.credited_bytes = std::min(credit_ahead_, plan.freed_bytes());
  batch.plan = std::move(plan);
  PCACHE_CHECK(under_way_.size() < under_way_.capacity());
  credit_ahead_ -= batch.credited_bytes;
  // With hazard failed-move-passed not all was moved.
  copied_ahead_ -= std::min(copied_ahead_, batch.plan.moved_bytes + batch.plan.copied_bytes);
  under_way_.push_back(std::move(batch));
}

// Whatever goes wrong here but a write that fails: nothing is remembered of the batches, and all of
// them are written again.
Status Writeback::write_batches(const Size& size) {
  written_unknown_ = true;
  const uint64_t failed_before = counters_.failed_writes.load();
  const uint64_t written_before = counters_.written_bytes.load();
  const uint64_t zeroes_before = counters_.zeroes.load();
  const auto begin = std::chrono::steady_clock::now();
  if (auto written = write_left(size); !written) return written;
  if (unwritten_bytes() == 0) tell_repeats(failed_before);
  if (auto flushed = flush(); !flushed) return flushed;
  const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - begin;
  if (counters_.zeroes.load() == zeroes_before)  // whose time is no measure of data's
    costs_.wrote(counters_.written_bytes.load() - written_before,
                 static_cast<uint64_t>(took.count()));
  written_unknown_ = false;
  return {};
}

Status Writeback::write_left(const Size& size) {
  unwritten_.store(0, std::memory_order_relaxed);
  Status first;  // of the first batch
  for (writing_ = 0; writing_ < under_way_.size(); writing_++) {
    Batch& batch = under_way_[writing_];
    if (batch.written.all_written()) continue;
    const WriteResult result = write_plan(
        *out_, batch.plan, {.depth = size.depth, .several = size.several}, &batch.written);
    counters_.writes.add(result.ios);
    counters_.failed_writes.add(result.failed_ios);
    counters_.zeroes.add(result.zero_ios);
    counters_.hole_bytes.add(result.hole_bytes);
    counters_.zeroed_bytes.add(result.zeroed_bytes);
    if (result.untold && result.error == ENOMEM) return out_of_memory();
    if (result.untold)
      return error_errno(result.error, "backing device %s: writing back failed",
                         parts_.backing.identity().text.c_str());
    if (result.error && writing_ == 0) first = what_is_left(batch, result.error);
    if (!batch.written.untried.empty()) break;  // the device fails everything, or was given up
  }
  uint64_t left = 0;
  for (const Batch& batch : under_way_) left += batch.written.left_bytes();
  unwritten_.store(left, std::memory_order_relaxed);
  if (!first) written_unknown_ = false;
  return first;
}

Status Writeback::flush() {
  const auto unflushed = [](const Batch& batch) { return batch.written.unflushed; };
  if (std::none_of(under_way_.begin(), under_way_.end(), unflushed)) return {};
  counters_.flushes.add();
  const bool flushes = !hazard(Hazard::kDirtyTailAheadOfDisk);
  if (flushes) out_->begin_flush();
  tell_kept();
  if (const int error = flushes ? out_->end_flush() : 0)
    return error_errno(error, "backing device %s: its flush failed",
                       parts_.backing.identity().text.c_str());
  for (Batch& batch : under_way_) batch.written.unflushed = false;
  return {};
}

Error Writeback::what_is_left(const Batch& batch, int error) const {
  const Extent first = batch.written.first_left();
  return error_errno(error,
                     "backing device %s: writing back failed at %llu+%llu, %llu bytes of its batch "
                     "are left",
                     parts_.backing.identity().text.c_str(),
                     static_cast<unsigned long long>(first.off),
                     static_cast<unsigned long long>(first.len),
                     static_cast<unsigned long long>(batch.written.left_bytes()));
}

void Writeback::tell_repeats(uint64_t failed_before) {
  if (counters_.failed_writes.load() == failed_before || repeats_told_) return;
  repeats_told_ = true;
  parts_.messages.print(LogLevel::kWarning,
                        "writeback: backing device %s: writes failed, and succeeded when they were "
                        "repeated; failed_writes of the status counts such",
                        parts_.backing.identity().text.c_str());
}

Status Writeback::settle_batches() {
  while (!under_way_.empty() && under_way_.front().written.all_written())
    if (auto settled = settle_first(); !settled) return settled;
  return {};
}

Status Writeback::settle_first() {
  writing_ = 0;
  Batch& batch = under_way_.front();
  bool tail_failed = false;
  if (auto settled = settler_.settle(batch.plan, batch.written, batch.order, &tail_failed);
      !settled)
    return settled;
  if (tail_failed) counters_.errors.add();
  const LogMark& end = batch.plan.end;
  counters_.batches.add();
  counters_.ksets.add(end.ksets - batch.plan.begin.ksets);
  counters_.keys.add(batch.plan.batch.keys().size());
  counters_.appended_bytes.add(batch.plan.batch.appended_bytes());
  counters_.superseded_keys.add(batch.plan.superseded_keys);
  counters_.superseded_bytes.add(batch.plan.superseded_bytes);
  PCACHE_CHECK(end.ksets > passed_ksets() && end.dirty_bytes >= passed_dirty_bytes());
  passed_bytes_.store(end.dirty_bytes, std::memory_order_release);
  passed_.store(end.ksets, std::memory_order_release);
  if (options_.waits) {
    // Also what is superseded since: its superseder need not be on the device.
    if (!batch.written.bad_keys.empty()) options_.waits->data_lost();
    options_.waits->passed(end.ksets);
  }
  note_progress(batch, batch.plan.freed_bytes());
  if (parts_.zeros)
    parts_.zeros->give_back(batch.plan.zero_bytes + batch.plan.superseded_zero_bytes);
  tell_kept();
  counters_.bad_keys.set(settler_.damaged_extents());
  spare_ = std::move(batch.plan);
  under_way_.erase(under_way_.begin());
  return {};
}

}  // namespace pcache
