// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback: moves dirty data to the backing device, in log order, and dirty_tail behind it.
//
// A batch is three values, each made from the one before:
//   BatchPlan      what is to be written, from the log alone       plan.h
//   WrittenBatch   what of it the device has                       written.h
//   settled        index, references and dirty_tail know it        settle.h
//
// What a step does, and what a crash after each line leaves:
//   1. batches are planned                                nothing has changed
//   | what they pass is moved, or superseded: durably     twice in the log: the later one counts
//   2. their data goes to the device                      written again at the next attach
//   3. the device is flushed                              the same
//   4. keys whose data is damaged are appended again      twice in the log: the later one counts
//   5. dirty_tail is moved, durably, batch by batch       done
//
// Invariants
// - While it is strict, what a batch writes is of one epoch (see KeyLog), and what it passes of
//   the last one: at any moment the device alone is a state that the user's barriers allow. Within
//   a batch the newest data of a sector is written.
// - Batches that are under way at the same time are of one epoch and write different sectors; they
//   may be written in any order, and are settled in that of the log.
// - While writes wait for the device, nothing is passed that is not on it, see DeviceAcks.
// - dirty_tail moves only when everything before it is on the device and flushed (hazard
//   dirty-tail-ahead-of-disk), or has a later key that is durable: since it was superseded (see
//   Superseded), moved (see Mover), or is damaged. Data that is damaged is appended again, stays
//   dirty, and so an error to read, but does not keep what is behind it from being written (hazard
//   media-error-is-clean).
// - A step that fails goes on with its batches the next time: only what is not on the device yet is
//   written. But when the device's flush fails, all of the batches are written again: what a flush
//   that failed had to cover may be lost, whatever the next says. What finds no memory (ENOMEM) is
//   such a step, too; what has been appended again of damaged data is not appended twice.
//
// Where another process writes back (Parts::follows) a step follows it: it plans what that one has
// passed, whatever the step's end, and settles it (follow.cc). Where moving pays it moves what is
// live, and states in the log what need not be written (kKsetPasses): the other process passes it.
// That is always as if it was strict: the other process may be.
// Any thread; steps exclude each other.
#pragma once

#include <functional>

#include "background/cleaning_costs.h"
#include "background/mover.h"
#include "background/settle.h"
#include "background/superseded.h"
#include "base/counter.h"
#include "base/mutex.h"
#include "parts/device_waits.h"

namespace pcache {

class Writeback {
 public:
  struct Options {
    // A step reports here how many appended bytes its progress stands for: no more, all in all,
    // than what is passed without the copies that moves have made of it. Of writes, while the
    // device has something to do: a report may wake a thread, or do what that waits for.
    std::function<void(uint64_t)> progress = nullptr;
    // Acknowledged data turned out to be damaged (positive errno).
    std::function<void(int)> data_lost = nullptr;
    DeviceWaits* waits = nullptr;  // is told what has been passed; nullptr: nobody waits
    // The backing device alone is at any moment a state that the user's barriers allow. Otherwise
    // only the cache and the device together are. At first: see set_strict().
    bool strict = true;
    // So many batches may be under way: of one, a place that cannot be written keeps what is behind
    // it in the log from being written.
    uint32_t most_under_way = 1;
    unsigned threads = 1;  // that write to the device, with the caller's
    // As Mover's `stored`; tests only.
    std::function<void()> stored = nullptr;
  };
  static Result<std::unique_ptr<Writeback>> create(const Parts& parts, const Options& options);

  // Of a batch, as decide() says.
  struct Size {
    uint64_t bytes;                  // of data as appended; a kset is never divided
    unsigned depth = kDeepestQueue;  // of the device's queue
    LiveData live = LiveData::kWrite;
    WriteReason reason = WriteReason::kIdle;
    bool several = false;  // threads may write it, where there are several
  };
  // Writes back what may be under way, of ksets before `until`. True: dirty_tail has moved past the
  // first batch, if not more. False: there was nothing to do, or nothing but data that is known to
  // be damaged.
  Result<bool> step(const LogMark& until, const Size& size) EXCLUDES(mu_);
  // While one exists, steps of others than the drain pass nothing that is not on the device. To be
  // made before the end of the drain is chosen.
  class Drain {
   public:
    explicit Drain(Writeback& writeback) : writeback_(writeback) { writeback_.note_drain(1); }
    ~Drain() { writeback_.note_drain(-1); }
    Drain(const Drain&) = delete;
    Drain& operator=(const Drain&) = delete;

   private:
    Writeback& writeback_;
  };
  // Of what the last step with kMove or kLeave has met.
  bool moving_pays() const { return moving_pays_.load(std::memory_order_relaxed); }
  const Mover::Counters& moved() const NO_THREAD_SAFETY_ANALYSIS { return mover_.counters(); }
  // Follows: the last step has found nothing for the other process to write: it has stated what
  // that is to pass, or there is time.
  bool needs_no_writing() const { return needs_no_writing_.load(std::memory_order_relaxed); }
  // Follows: up to here, in ksets, the other process was told to pass and has not; 0: nothing.
  uint64_t stated_ksets() const {
    const uint64_t stated = stated_.load(std::memory_order_acquire);
    return stated > passed_ksets() ? stated : 0;
  }
  // Appends a key, if nobody has since, so that a kset says what was stated.
  void say_what_is_stated() EXCLUDES(mu_);
  // Of the batches that the last step has not finished: not on the device yet. 0: there are none.
  uint64_t unwritten_bytes() const { return unwritten_.load(std::memory_order_relaxed); }
  // A step under way ends at once, as one that fails, and so does each later one; or does no more.
  // Any thread, also while a step has the lock: it only sets atomics.
  void give_up(bool on) NO_THREAD_SAFETY_ANALYSIS {
    if (out_) out_->give_up(on);
  }
  // From the next step on. That the device alone is in order holds when all is written back that
  // was dirty then. Any thread.
  void set_strict(bool on) { wants_strict_.store(on, std::memory_order_relaxed); }
  bool strict() const { return wants_strict_.load(std::memory_order_relaxed); }
  // Whether ksets before `until` are left.
  bool behind(const LogMark& until) const { return passed_ksets() < until.ksets; }
  // Dirty data that is known to be damaged, and not overwritten since.
  uint64_t damaged_extents() EXCLUDES(mu_);
  // The last step found nothing but damaged data; no more can be passed until something is
  // appended.
  bool stuck(const LogMark& head) const {
    return stuck_at_.load(std::memory_order_relaxed) == head.ksets;
  }
  // Ksets cannot be read: what is behind them is never written back.
  bool log_damaged() const { return log_damaged_.load(std::memory_order_relaxed); }

#define PCACHE_WRITEBACK_COUNTERS(X)                                                           \
  X(errors, "errors", "steps that failed")                                                     \
  X(failed_writes, "failed_writes", "attempts")                                                \
  X(batches, "batches", "written")                                                             \
  X(ksets, "ksets", "of the batches")                                                          \
  X(keys, "keys", "of the batches")                                                            \
  X(appended_bytes, "bytes", "of the keys")                                                    \
  X(superseded_keys, "superseded_keys", "passed, never written")                               \
  X(superseded_bytes, "superseded_bytes", "of these, as appended")                             \
  X(writes, "writes", "to the backing device")                                                 \
  X(written_bytes, "written_bytes", "without what later keys superseded")                      \
  X(zeroes, "zeroes", "requests to the backing device to make holes, or zeros")                \
  X(hole_bytes, "hole_bytes", "of them, that became holes")                                    \
  X(zeroed_bytes, "zeroed_bytes", "of them, that became zeros")                                \
  X(idle_bytes, "written_idle_bytes", "of these: there was time")                              \
  X(space_bytes, "written_for_space_bytes", "space was short")                                 \
  X(awaited_bytes, "written_through_bytes", "writes waited for it")                            \
  X(limit_bytes, "written_at_limit_bytes", "there was more dirty data than the options allow") \
  X(drain_bytes, "written_in_drain_bytes", "a drain")                                          \
  X(flushes, "flushes", "of the backing device")
  struct Counters {
    PCACHE_WRITEBACK_COUNTERS(PCACHE_COUNTER_MEMBER)
    Counter bad_keys;  // known to be damaged, as of the last step
  };
  const Counters& counters() const { return counters_; }
  // What dirty_tail has passed since attach.
  uint64_t passed_ksets() const { return passed_.load(std::memory_order_acquire); }
  uint64_t passed_dirty_bytes() const { return passed_bytes_.load(std::memory_order_acquire); }

 private:
  struct Batch {
    BatchPlan plan;
    WrittenBatch written;
    std::vector<uint32_t> order;  // in which it is settled
    uint64_t credited_bytes = 0;  // told as progress
  };

  Writeback(const Parts& parts, const Options& options);
  void note_drain(int more) EXCLUDES(mu_) {
    MutexLock lock(mu_);
    drains_ += static_cast<uint32_t>(more);
  }
  Result<bool> step_once(const LogMark& until, const Size& size) REQUIRES(mu_);
  Result<bool> follow(const Size& size) REQUIRES(mu_);
  bool state_passable(const LogMark& until, const Size& size) REQUIRES(mu_);
  // Plans as many batches as may be under way. An error: the first cannot be planned.
  Status plan_batches(const LogMark& until, const Size& size) REQUIRES(mu_);
  // How keys may be passed whose data is not on the device; each includes those before it.
  enum class Pass : uint8_t { kNone, kSuperseded, kMoved };
  Result<bool> make_passable(const PlanOptions& options, const LogMark& until, LiveData live,
                             BatchPlan* plan) REQUIRES(mu_);
  Status plan_as(PlanOptions options, const LogMark& until, Pass pass, BatchPlan* plan)
      REQUIRES(mu_);
  void ask_fates(PlanOptions* options, Pass pass) REQUIRES(mu_);
  uint64_t passable_from() const REQUIRES(mu_);  // in ksets
  // True: what the plan passes is durable elsewhere in the log, in an epoch that allows it.
  bool secure(const BatchPlan& plan, const LogMark& until, LiveData live) REQUIRES(mu_);
  bool move(const BatchPlan& plan) REQUIRES(mu_);
  void note_moved(const BatchPlan& plan, uint64_t bytes) REQUIRES(mu_);
  // False: none may be under way behind those that are, or there is nothing to be written.
  Result<bool> plan_one(const LogMark& until, const Size& size) REQUIRES(mu_);
  // The options of the next plan; nothing: it has to wait.
  std::optional<PlanOptions> next_plan(const LogMark& until, uint64_t batch_bytes) REQUIRES(mu_);
  void begin(BatchPlan plan) REQUIRES(mu_);
  // Afterwards the device has all of the first batch, durably; or an error.
  Status write_batches(const Size& size) REQUIRES(mu_);
  Status write_left(const Size& size) REQUIRES(mu_);
  Status flush() REQUIRES(mu_);
  // Settles from the first on what the device has.
  Status settle_batches() REQUIRES(mu_);
  Status settle_first() REQUIRES(mu_);
  void forget() REQUIRES(mu_);
  Error what_is_left(const Batch& batch, int error) const;
  void tell_repeats(uint64_t failed_before) REQUIRES(mu_);
  void note_written(uint64_t bytes) REQUIRES(mu_);
  void note_done(uint64_t bytes) REQUIRES(mu_);
  Counter& written_for(WriteReason reason);
  void note_marked(size_t part, size_t all) REQUIRES(mu_);
  void note_progress(Batch& batch, uint64_t appended_bytes) REQUIRES(mu_);
  void tell_kept() REQUIRES(mu_);
  Error failed(Error error);

  const Parts& parts_;
  const Options options_;
  std::unique_ptr<WriteOuts> out_ PT_GUARDED_BY(mu_);  // nullptr: follows
  Mutex mu_{LockRank::kWriteback};
  Settler settler_ GUARDED_BY(mu_);
  Superseded superseded_ GUARDED_BY(mu_);
  Mover mover_ GUARDED_BY(mu_);
  CleaningCosts costs_ GUARDED_BY(mu_);
  uint32_t drains_ GUARDED_BY(mu_) = 0;
  std::vector<Batch> under_way_ GUARDED_BY(mu_);  // in log order; never moves while it is worked on
  size_t writing_ GUARDED_BY(mu_) = 0;            // the one that is written, or settled
  // What the device has of them is not known: the next step plans them anew.
  bool written_unknown_ GUARDED_BY(mu_) = false;
  BatchPlan spare_ GUARDED_BY(mu_);             // its memory is used again
  uint64_t kept_progress_ GUARDED_BY(mu_) = 0;  // not told yet, in bytes
  // Told as progress of what no batch under way stands for: of plans that were given up.
  uint64_t credit_ahead_ GUARDED_BY(mu_) = 0;
  // Of the keys behind the batches under way: whose data is moved already. To a new plan they are
  // superseded, by the copies.
  uint64_t copied_ahead_ GUARDED_BY(mu_) = 0;
  bool strict_ GUARDED_BY(mu_) = true;  // in this step
  std::optional<Extent> stated_of_
      GUARDED_BY(mu_);  // of which it was stated that it has a later key
  std::atomic<bool> needs_no_writing_{false};
  std::atomic<uint64_t> stated_{0};  // in ksets
  bool repeats_told_ GUARDED_BY(mu_) = false;
  WriteReason reason_ GUARDED_BY(mu_) = WriteReason::kIdle;  // of the step
  std::atomic<bool> wants_strict_;
  std::atomic<bool> log_damaged_{false};
  std::atomic<bool> moving_pays_{false};
  std::atomic<uint64_t> stuck_at_{UINT64_MAX};
  std::atomic<uint64_t> passed_{0}, passed_bytes_{0};
  std::atomic<uint64_t> unwritten_{0};
  Counters counters_;
};

inline constexpr auto kWritebackCounters =
    PCACHE_COUNTER_TABLE(Writeback::Counters, PCACHE_WRITEBACK_COUNTERS);

}  // namespace pcache
