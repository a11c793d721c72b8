// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback: moves dirty data to the backing device, in log order, and dirty_tail behind it.
//
// What a step does, and what a crash after each line leaves:
//   1. the data of a batch of ksets goes to the device    written again at the next attach
//   2. the device is flushed                              the same
//   3. keys whose data is damaged are appended again      twice in the log: the later one counts
//   4. dirty_tail is moved, durably                       done
//
// Invariants
// - A batch never reaches past the end of an epoch (see KeyLog): at any moment the device alone is
//   a state that the user's barriers allow. Within a batch the newest data of a sector is written.
// - dirty_tail moves only when everything before it is on the device and flushed (hazard
//   dirty-tail-ahead-of-disk), or has been appended again: data that is damaged stays dirty, and so
//   an error to read, but does not keep what is behind it from being written (hazard
//   media-error-is-clean).
// - A step that fails changes nothing but the device, and the next one goes on with its batch: only
//   what is not on the device yet is written. But when the device's flush fails, all of the batch
//   is written again: what a flush that failed had to cover may be lost, whatever the next says.
//   What finds no memory (ENOMEM) is such a step, too; what has been appended again of damaged data
//   is not appended twice.
// Any thread; steps exclude each other.
#pragma once

#include <functional>

#include "background/damaged.h"
#include "background/write_out.h"
#include "base/mutex.h"

namespace pcache {

class Writeback {
 public:
  static constexpr size_t kMostKeys = 1 << 20;
  struct Options {
    // While a step is under way: so many bytes of the cache are written back, as appended. For all
    // of a step as many as it passes.
    std::function<void(uint64_t)> progress = nullptr;
    // Acknowledged data turned out to be damaged (positive errno).
    std::function<void(int)> data_lost = nullptr;
  };
  static Result<std::unique_ptr<Writeback>> create(const BackgroundParts& parts,
                                                   const Options& options);

  // Of a batch, as decide() says.
  struct Size {
    uint64_t
        bytes;  // of data as appended; a kset is never divided, and kMostKeys keys are the most
    unsigned depth = kDeepestQueue;  // of the device's queue
  };
  // Writes one batch back, of ksets before `until`. False: there was nothing to do, or nothing but
  // data that is known to be damaged.
  Result<bool> step(const LogMark& until, const Size& size) EXCLUDES(mu_);
  // Of the batch that the last step has not finished: not on the device yet. 0: there is none.
  uint64_t unwritten_bytes() const { return unwritten_.load(std::memory_order_relaxed); }
  // A step under way ends at once, as one that fails, and so does each later one; or does no more.
  // Any thread, also while a step has the lock: it only sets an atomic.
  void give_up(bool on) NO_THREAD_SAFETY_ANALYSIS { out_->give_up(on); }
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

#define PCACHE_WRITEBACK_COUNTERS(X)                                      \
  X(errors, "errors", "steps that failed")                                \
  X(failed_writes, "failed_writes", "attempts")                           \
  X(batches, "batches", "written")                                        \
  X(ksets, "ksets", "of the batches")                                     \
  X(keys, "keys", "of the batches")                                       \
  X(appended_bytes, "bytes", "of the keys")                               \
  X(writes, "writes", "to the backing device")                            \
  X(written_bytes, "written_bytes", "without what later keys superseded") \
  X(flushes, "flushes", "of the backing device")                          \
  X(bad_keys, "bad_extents", "known to be damaged, as of the last step")
  struct Counters {
    PCACHE_WRITEBACK_COUNTERS(PCACHE_COUNTER_MEMBER)
  };
  const Counters& counters() const { return counters_; }
  // Behind dirty_tail at attach and before it now.
  uint64_t passed_ksets() const { return passed_.load(std::memory_order_acquire); }
  uint64_t passed_dirty_bytes() const { return passed_bytes_.load(std::memory_order_acquire); }

 private:
  Writeback(const BackgroundParts& parts, const Options& options)
      : parts_(parts), options_(options), damaged_(parts) {}
  // Makes a batch, to be finished by this step or a later one. False: there is nothing to do.
  Result<bool> begin_batch(const LogMark& until, uint64_t batch_bytes) REQUIRES(mu_);
  Result<bool> step_once(const LogMark& until, const Size& size) REQUIRES(mu_);
  // Reads ksets into batch_ and damaged_keys_; returns where it ends.
  Result<LogMark> collect(const LogMark& until, uint64_t batch_bytes) REQUIRES(mu_);
  Status write_out(unsigned depth) REQUIRES(mu_);
  WriteOut::Done write(const std::vector<DirtyBatch::Piece>& pieces, const WriteOut::Limits& limits)
      REQUIRES(mu_);
  Status write_pieces(unsigned depth) REQUIRES(mu_);
  Error what_is_left(int error) REQUIRES(mu_);
  void tell_repeats(uint64_t failed_before) REQUIRES(mu_);
  Status keep_damaged(const std::vector<uint32_t>& bad) REQUIRES(mu_);
  void note_written(uint64_t bytes) REQUIRES(mu_);
  void note_progress(uint64_t appended_bytes) REQUIRES(mu_);
  void mark_written(const std::vector<uint32_t>& bad) REQUIRES(mu_);
  void mark_written(const DirtyBatch::Piece& piece, const std::vector<uint32_t>& bad)
      REQUIRES(mu_, index_turn);
  Error failed(Error error);

  const BackgroundParts& parts_;
  const Options options_;
  std::unique_ptr<WriteOut> out_ PT_GUARDED_BY(mu_);
  Mutex mu_{LockRank::kWriteback};
  DirtyBatch batch_ GUARDED_BY(mu_);
  std::vector<media::Key> damaged_keys_ GUARDED_BY(mu_);  // of its ksets, known before
  uint64_t others_ GUARDED_BY(mu_) = 0;                   // of its ksets, in neither
  std::vector<DirtyBatch::Piece> pieces_ GUARDED_BY(mu_);
  std::vector<uint32_t> by_stripe_ GUARDED_BY(mu_);  // their numbers
  uint64_t planned_bytes_ GUARDED_BY(mu_) = 0;       // to be written for batch_
  // The batch under way; if it is not, the next step begins one, with the same ksets.
  bool under_way_ GUARDED_BY(mu_) = false;
  LogMark end_ GUARDED_BY(mu_);  // behind its ksets
  // The end of the last batch whose damaged data was appended again, or was to be.
  uint64_t kept_for_ GUARDED_BY(mu_) = 0;
  std::vector<DirtyBatch::Piece> untried_ GUARDED_BY(mu_), failed_ GUARDED_BY(mu_);
  std::vector<uint32_t> bad_ GUARDED_BY(mu_);  // ascending: keys whose data is damaged
  bool unflushed_ GUARDED_BY(mu_) = false;     // something of it has been written since
  bool repeats_told_ GUARDED_BY(mu_) = false;
  uint64_t reported_bytes_ GUARDED_BY(mu_) = 0;  // as progress since dirty_tail moved
  DamagedData damaged_ GUARDED_BY(mu_);
  std::atomic<bool> log_damaged_{false};
  std::atomic<uint64_t> stuck_at_{UINT64_MAX};
  std::atomic<uint64_t> passed_{0}, passed_bytes_{0};
  std::atomic<uint64_t> unwritten_{0};
  Counters counters_;
};

inline constexpr auto kWritebackCounters =
    PCACHE_COUNTER_TABLE(Writeback::Counters, PCACHE_WRITEBACK_COUNTERS);

}  // namespace pcache
