// SPDX-License-Identifier: GPL-2.0-or-later
// Cache: all parts of one attached cache, wired together; opening and closing it.
//
// Cache owns every part. The parts do not know it; requests see them as a RequestState. Members are
// in the order of construction. Destruction runs backwards, also after an open that failed
// half-way.
//
// Opening first looks, then changes. While it looks it checks and replays everything, and takes all
// that can be refused: device queue, threads, memory. It has only a read-only view of the cache
// device; a failure leaves both devices as they were. The changes begin with what can still be
// refused: a file's space, which is given back then, and the header at the log head, whose page may
// be bad. After that nothing fails but a format of a blank device, on bad pages.
//
// It writes, in order: the format, if blank; zeros at the log head; cache_info, if not blank (as
// every attach of the kernel target does); identity block; raised generations; with persist=auto
// what was measured, once. After a crash between two of them the image attaches the same. With the
// option `readonly` nothing is ever written: no background work runs, and no request takes space.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>

#include "background/doorbell.h"
#include "background/worker.h"
#include "base/executor.h"
#include "cache/media_errors.h"
#include "cache/options.h"
#include "cache/space_watch.h"
#include "recovery/recover.h"
#include "request/queue.h"
#include "segment/format_device.h"
#include "segment/identity.h"
#include "segment/persist_record.h"

namespace pcache {

// What the status counts from.
struct CounterBase {
  std::chrono::system_clock::time_point since;
  std::vector<uint64_t> counts;  // of each field of the status that is a counter
  std::array<Histogram, kLatencyClasses> latency;
};

class Cache {
 public:
  // Opens the devices that `options` name.
  static Result<std::unique_ptr<Cache>> open(const Options& options);
  // Uses devices that are open already; tests give simulated ones and a stepped executor.
  struct Devices {
    std::unique_ptr<Pmem> pmem;
    std::unique_ptr<BlockDevice> backing;
    std::unique_ptr<Executor> executor;
    std::unique_ptr<Executor> writeback_executor = nullptr;  // nullptr: `executor` does both
  };
  static Result<std::unique_ptr<Cache>> attach(Devices devices, const Options& options);
  ~Cache();

  // Stops background work, commits open ksets and, with the option `drain`, drains. pcache_close()
  // returns the same. No queue may be left.
  Status close();
  // Until `given_up`, at the latest with a batch that has begun (ECANCELED).
  Status drain(const std::atomic<bool>* given_up = nullptr);
  // Writeback tries no more of its batch than what is in flight, or goes on. Any thread.
  // What waits for a server that is away fails from now on. Before close(). Any thread.
  void give_up_device() { devices_.backing->give_up(); }
  void give_up_writeback(bool on) { worker_->give_up(on); }
  // Makes durable in pmem what is complete. It reports no damage, as a FLUSH does once, and does
  // not wait for space, as a FLUSH does: ENOSPC.
  Status commit();
  // What the status counts begins at 0 now. Any thread.
  void reset_counters() EXCLUDES(counter_mu_);
  // As Worker::move_step(); for simulators.
  Result<bool> move_step() { return worker_->move_step(); }
  Status set_gc_percent(int64_t percent) EXCLUDES(frame_mu_);
  uint32_t gc_percent() const { return worker_->gc_percent(); }
  Status set_mode(CacheMode mode) EXCLUDES(frame_mu_);
  Status check_front() const;
  // EOPNOTSUPP, and what is asked, of a front.
  Status refuse_if_front(const char* what) const;
  CacheMode mode() const { return mode_.mode(); }
  // Uses all of a backing device that has grown. In this order, each step complete before the next:
  // the device takes requests beyond the old end, its new size outlasts a power failure, the index
  // takes extents there, the identity block has the new size, requests may go there. Until then no
  // key is beyond the size in the identity block, so a crash in any step leaves an image for the
  // device of either size; inside the block's store one without a block, as an attach does that
  // writes it. An error leaves the old size; one of that store may leave no block, too.
  // EINVAL: it is smaller; EFBIG: it has outgrown what the index has address space for; EOPNOTSUPP:
  // its size cannot be measured again, or it is another process's. Any thread.
  struct Resized {
    uint64_t before, now;  // bytes
  };
  Result<Resized> resize_backing() EXCLUDES(frame_mu_);
  // Makes the cache larger, to `bytes`, or to all that its file or device has (0). In this order,
  // each step complete before the next: the file has the space, and is mapped; the tables in DRAM
  // have room; the records on media are durable, see segment/grow.h; the new segments are handed
  // out. So a crash leaves the cache of the old size or of the new one. Requests go on meanwhile.
  // An error leaves the old size, and at most a file that is longer.
  // EINVAL: it would be smaller, or as large as it is; EFBIG: it has outgrown the address space
  // that was taken at attach; EOPNOTSUPP: it has two sides; ENOSPC, ENOMEM, EIO. Any thread.
  struct Grown {
    uint32_t before, now;  // segments
  };
  Result<Grown> resize(uint64_t bytes) EXCLUDES(grow_mu_, frame_mu_);
  // As pcache_set().
  Status set(const char* name, const char* text) EXCLUDES(frame_mu_, dirty_mu_);

  Result<std::unique_ptr<Queue>> create_queue(uint32_t depth);

  // What the log has that is not written back.
  struct Dirty {
    uint64_t live_bytes;             // each byte once
    uint64_t ksets, appended_bytes;  // of the log, with what later keys supersede
  };
  Dirty dirty() const;

  // For status and tests.
  std::chrono::system_clock::time_point attached_at() const { return attached_at_; }
  // Of the last reset_counters(), nullptr: none.
  std::shared_ptr<const CounterBase> counter_base() const EXCLUDES(counter_mu_) {
    MutexLock lock(counter_mu_);
    return counter_base_;
  }
  bool readonly() const { return options_.readonly; }
  // As much of the backing device as requests may use.
  uint64_t logical_bytes() const { return requests_->logical_bytes(); }
  // Of a front: at its other end is the backend, once a file is connected (BellListener).
  Doorbell* doorbell() const { return doorbell_.get(); }
  // The backend has rung. Any thread.
  void rung() { worker_->rung(); }
  // What the backend's status shows of a front. Any thread.
  void say_use();
  bool data_crc() const { return parts_->data_crc; }
  uint32_t sb_flags() const { return frame_.sb_flags; }
  CacheInfoFields info() EXCLUDES(frame_mu_) {
    MutexLock lock(frame_mu_);
    return frame_.info;
  }
  // The superblock's.
  uint32_t seg_num() EXCLUDES(frame_mu_) {
    MutexLock lock(frame_mu_);
    return frame_.seg_num;
  }
  const Tails& tails() const { return recovered_.tails; }
  const ReplayResult& replayed() const { return recovered_.replayed; }
  const Pmem& pmem() const { return *devices_.pmem; }
  const BlockDevice& backing() const { return *devices_.backing; }
  const SegmentTable& segments() const { return *recovered_.segments; }
  const KeyLog& log() const { return *log_; }
  const Index& index() const { return *recovered_.index; }
  const Stripes& stripes() const { return *stripes_; }
  const Writeback& writeback() const { return *writeback_; }
  const Reclaim& reclaim() const { return *reclaim_; }
  const Worker& worker() const { return *worker_; }
  const policy::Retention& retention() const { return *retention_; }
  bool drains_at_close() const { return drains_at_close_; }
  uint64_t seq_cutoff_bytes() const { return requests_->seq_cutoff_bytes(); }
  uint64_t read_ahead_bytes() const { return requests_->read_ahead_bytes(); }
  // What persist=auto has measured; nothing with another method.
  const std::optional<Calibration>& calibration() const { return calibration_; }
  const VerifyResult& verified() const { return recovered_.verified; }
  bool checked_at_attach() const { return recovery_.verify_data; }
  RequestState& requests() { return *requests_; }
  QueueSet& queues() { return queues_; }

 private:
  Cache(Devices devices, const Options& options);
  // The steps of attach(), in order. These only look:
  Status probe();
  Status check_cache_size();
  Status check_identity();
  Status load_frame_and_options();
  Status recover_log();
  Status accept_copied_kset() const;
  Status wire();
  Status wire_background();
  FormatOptions format_options() const;
  // These change:
  Status make_ready();
  Status begin_log();
  Status format_if_blank();
  Status write_attached();
  void choose_persist();
  Status close_ksets();
  Status set_dirty_option(int64_t DirtyOptions::*option, int64_t value) EXCLUDES(dirty_mu_);
  // Durable, or an error, and `info` is as before.
  template <typename T>
  Status change_info(T CacheInfoFields::*field, T value) REQUIRES(frame_mu_);
  Status refuse_if_readonly(const char* what) const;
  Result<std::optional<media::Identity>> identity_of_size(uint64_t bytes) const;
  // Of a cache of so many segments, what garbage collection leaves.
  static uint64_t kept_bytes(uint32_t segments, uint32_t gc_percent);
  Result<uint64_t> size_to_grow_to(uint64_t bytes) REQUIRES(grow_mu_);
  Status grow_to(uint64_t bytes) REQUIRES(grow_mu_) EXCLUDES(frame_mu_);
  Status store_grown(uint32_t segments) REQUIRES(grow_mu_) EXCLUDES(frame_mu_);
  SpaceWatch::Sample sample_space(Worker::State state) const;

  Devices devices_;
  const Options options_;
  const std::chrono::system_clock::time_point attached_at_ = std::chrono::system_clock::now();
  Log messages_;
  RecoverOptions recovery_;
  std::optional<media::Identity> new_identity_;  // to be written
  bool blank_ = false;                           // before this attach
  bool first_page_is_ours_ = true;               // we may write to it
  std::atomic<bool> drains_at_close_;
  std::atomic<bool> attached_{false};  // all steps are done; not with `readonly`
  std::optional<Calibration> calibration_;
  // Constant, but for gc_percent, mode and info_record, which only change_info() changes later, and
  // for what resize() changes.
  DeviceFrame frame_;
  Mutex frame_mu_;
  Mutex grow_mu_{LockRank::kGrow};
  Mutex dirty_mu_;
  DirtyOptions dirty_options_ GUARDED_BY(dirty_mu_);
  mutable Mutex counter_mu_;
  std::shared_ptr<const CounterBase> counter_base_ GUARDED_BY(counter_mu_);
  MediaErrors media_errors_;
  Recovered recovered_;
  std::unique_ptr<KeyLog> log_;
  std::unique_ptr<Stripes> stripes_;
  std::unique_ptr<policy::Retention> retention_;
  std::unique_ptr<ZeroBacklog> zeros_;
  ModeSwitch mode_;
  std::unique_ptr<const Parts> parts_;
  std::unique_ptr<RequestState> requests_;
  std::unique_ptr<Doorbell> doorbell_;
  std::unique_ptr<Writeback> writeback_;
  std::unique_ptr<Reclaim> reclaim_;
  std::unique_ptr<Worker> worker_;
  SpaceWatch space_watch_;  // used by the executor's thread alone, while there is one
  QueueSet queues_;
  bool closed_ = false;
};

}  // namespace pcache
