// SPDX-License-Identifier: GPL-2.0-or-later
// DeviceAcks: writes that are complete in pmem and wait until the backing device has them, which in
// some modes is when a write is acknowledged (format/cache_mode.h).
//
// Invariants
// - A write has an Entry while it enters the log. If that says that the write waits, holds() is
// true
//   from then on until the write is acknowledged, however the mode changes: no key of it, and none
//   that it supersedes, is passed without being on the device. An Entry looks at the mode behind
//   its count, and holds() at the count behind the mode, so one of them sees the other.
// - A write that was submitted in a mode in which it waits does so, also when it goes on in
// another.
// - A write is acknowledged when all of the log up to its last kset is passed: it, and all that was
//   written before, is on the device.
// - Nobody waits behind one, and none waits for a timer: add() wakes writeback.
// - When data turns out to be damaged, all that wait fail, and all that are on their way, with a
//   part in the log: one of them may be it.
// Lock: mu_ is a leaf.
#pragma once

#include <atomic>
#include <functional>

#include "base/mutex.h"
#include "parts/device_waits.h"
#include "parts/mode_switch.h"
#include "request/pending.h"

namespace pcache {

struct QueueState;

class DeviceAcks final : public DeviceWaits {
 public:
  explicit DeviceAcks(const ModeSwitch& mode) : mode_(mode) {}
  // Called after each add(). Set while one thread has the cache.
  void set_wake(std::function<void()> wake) { wake_ = std::move(wake); }

  // Whether a write that is submitted now waits.
  bool promises() const { return mode_.answers().acks_on_device; }
  // While a write enters the log. It notes in the write's progress what it has been promised.
  class Entry {
   public:
    Entry(DeviceAcks& acks, WriteProgress* progress) : acks_(acks), waits_(acks.begin(progress)) {}
    ~Entry() {
      if (waits_) acks_.end();
    }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    bool waits() const { return waits_; }
    // It is in the log; add() follows.
    void to_be_added() { waits_ = false; }

   private:
    DeviceAcks& acks_;
    bool waits_;
  };
  // It is in the log, is in no list, and waits. For the queue's thread what submit() returns, 0.
  int add(QueueState& queue, pcache_request* request, const WriteProgress& progress) EXCLUDES(mu_);
  void add(PendingRequest* pending) EXCLUDES(mu_);
  // Takes out those of `queue` and completes them with ECANCELED. How many.
  uint32_t cancel(const QueueState& queue) EXCLUDES(mu_);
  uint32_t count() const { return waiting_.load(std::memory_order_relaxed); }

  bool any() const override { return count() > 0; }
  bool holds() const override {
    return mode_.acks_on_device() || begun_.load(std::memory_order_seq_cst) > 0;
  }
  bool take_arrived() override EXCLUDES(mu_);
  bool has_arrived() const override { return arrived_count_.load(std::memory_order_relaxed) > 0; }
  void mark(uint64_t ksets) override EXCLUDES(mu_);
  void passed(uint64_t ksets) override EXCLUDES(mu_);
  void fail(int error) override EXCLUDES(mu_);
  void data_lost() override EXCLUDES(mu_);

 private:
  [[gnu::always_inline]] bool begin(WriteProgress* progress) {
    if (!progress->begun) {
      progress->begun = true;
      progress->losses = losses_.load(std::memory_order_acquire);
    }
    if (!progress->to_device && !promises()) [[likely]]
      return false;
    return begin_waiting(progress);
  }
  [[gnu::noinline]] bool begin_waiting(WriteProgress* progress);
  void end() { begun_.fetch_sub(1, std::memory_order_release); }
  void finish(PendingRequest* pending, int error);
  uint32_t finish_all(PendingList* list, int error);
  PendingList take_all(bool for_loss) EXCLUDES(mu_);

  const ModeSwitch& mode_;
  std::function<void()> wake_;
  std::atomic<uint32_t> begun_{0};          // from begin() on
  std::atomic<uint32_t> waiting_{0};        // in a list
  std::atomic<uint32_t> arrived_count_{0};  // in arrived_
  std::atomic<uint32_t> losses_{0};
  Mutex mu_;
  // Their ksets may be open; are being closed; are known, in order.
  PendingList arrived_ GUARDED_BY(mu_), closing_ GUARDED_BY(mu_), marked_ GUARDED_BY(mu_);
};

}  // namespace pcache
