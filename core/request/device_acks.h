// SPDX-License-Identifier: GPL-2.0-or-later
// DeviceAcks: writes that are complete in pmem and wait until the backing device has them, which in
// some modes is when a write is acknowledged (format/cache_mode.h).
//
// Invariants
// - A write says begin() before it enters the log, and add() or end() behind that. From begin() on,
//   if it said that the write waits, holds() is true until the write is acknowledged, however the
//   mode changes: no key of it, and none that it supersedes, is passed without being on the device.
//   The two look at the mode and at the count in opposite order, so one of them sees the other.
// - A write is acknowledged when all of the log up to its last kset is passed: it, and all that was
//   written before, is on the device.
// - Nobody waits behind one, and none waits for a timer: add() wakes writeback.
// - When acknowledged data turns out to be damaged, all that wait fail, and all that are on their
//   way: one of them may be it.
// Lock: mu_ comes before a CompletionQueue's alone.
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

  // Of a write that is about to enter the log.
  DeviceTicket begin() {
    if (!mode_.answers().acks_on_device) [[likely]]
      return {};
    return begin_waiting();
  }
  // It does not wait after all.
  void end(const DeviceTicket& ticket) {
    if (ticket.waits) begun_.fetch_sub(1, std::memory_order_release);
  }
  // Acknowledged data is damaged: it may be that of a write that waits, or is on its way.
  void data_lost() EXCLUDES(mu_);
  // It is in the log, is in no list, and waits. For the queue's thread what submit() returns, 0.
  int add(QueueState& queue, pcache_request* request, const DeviceTicket& ticket) EXCLUDES(mu_);
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

 private:
  [[gnu::noinline]] DeviceTicket begin_waiting();
  void finish(PendingRequest* pending, int error) REQUIRES(mu_);
  void fail_all(int error) REQUIRES(mu_);

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
