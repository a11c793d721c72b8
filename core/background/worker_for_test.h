// SPDX-License-Identifier: GPL-2.0-or-later
// A worker on two executors whose clocks the test turns.
#pragma once

#include "background/background_for_test.h"
#include "background/worker.h"

namespace pcache {

class WorkerTest : public BackgroundTest {
 protected:
  using milliseconds = std::chrono::milliseconds;
  static constexpr milliseconds kFlushDelay{1000}, kInterval{5000};

  void start(uint32_t gc_percent = 70, const RigOptions& o = {}) {
    stop();
    BackgroundTest::start(o);
    image_->memory().set_recording(false);  // nothing looks at the segments stored here
    start_worker(gc_percent);
  }
  // As after a crash that lost nothing.
  void attach_again(uint32_t gc_percent) {
    stop();
    attach();
    start_worker(gc_percent);
  }
  void start_worker(uint32_t gc_percent) {
    main_ = std::make_unique<SteppedExecutor>();
    writing_ = std::make_unique<SteppedExecutor>();
    Worker::Options w;
    w.flush_delay = kFlushDelay;
    w.writeback_interval = kInterval;
    w.gc_percent = gc_percent;
    w.dirty_limits = dirty_limits_;
    w.waiting_requests = [this] { return waiting_; };
    w.waits_for_writeback = [this] { return for_writeback_; };
    w.retry_requests = [this] {
      retries_++;
      if (on_retry_) on_retry_();
    };
    w.set_pace = [this](bool on) { paced_ = on; };
    w.fail_requests = [this](int error) { failed_ = error; };
    w.waits = options_.writeback.waits;
    const SpaceLimits::Shortage shortage{throttle_segments_, move_segments_, options_.batch_bytes};
    const SpaceLimits limits{.writing = shortage, .moving = shortage, .idle_batch_bytes = 64 << 20};
    w.limits = [limits](uint32_t) { return limits; };
    worker_ = std::make_unique<Worker>(*rig_->parts, *rig_->writeback, *rig_->reclaim, *main_,
                                       *writing_, w);
    rig_->table->set_events({[this](SegId seg) {
                               rig_->forget_marks(seg);
                               worker_->space_taken();
                             },
                             [this] { worker_->space_freed(); }});
    worker_->start();
  }
  void stop() {
    if (!worker_) return;
    worker_->stop();
    rig_->table->set_events({});
    worker_.reset();
  }
  void TearDown() override {
    stop();
    BackgroundTest::TearDown();
  }
  // What is due now, on both executors, until nothing is: no time passes.
  void run() {
    for (int i = 0; i < 20; i++) {
      main_->advance(milliseconds(0));
      writing_->advance(milliseconds(0));
    }
  }
  void advance(milliseconds by) {
    for (milliseconds at{0}; at < by; at += milliseconds(10)) {
      main_->advance(milliseconds(10));
      writing_->advance(milliseconds(10));
    }
    run();
  }
  uint32_t used() const {
    const SegmentCounts counts = rig_->table->counts();
    return counts.total - counts.free;
  }
  // Takes data segments until `n` are in use, or as many as can be; little of it is to be written.
  void use(uint32_t n) {
    while (used() < n && rig_->write(kRangeBytes, kRangeBytes, 1)) {
    }
  }
  // The same, all of it to be written.
  void use_apart(uint32_t n) {
    for (uint64_t off = 0; used() < n && rig_->write(off, kRangeBytes, 1); off += kRangeBytes) {
    }
  }
  // The same, in ksets of their own.
  void use_in_small_ksets(uint32_t n) {
    for (uint64_t off = 0; used() < n && rig_->write(off, 128 << 10, 1); off += 128 << 10)
      rig_->close();
  }
  uint64_t batches() const { return rig_->writeback->counters().batches.load(); }
  uint64_t errors() const { return rig_->writeback->counters().errors.load(); }
  uint64_t reclaimed() const { return rig_->reclaim->counters().ksets.load(); }

  bool waiting_ = false, for_writeback_ = false;
  int retries_ = 0;
  std::function<void()> on_retry_;
  bool paced_ = false;
  int failed_ = 0;  // the requests that wait, with this errno
  uint32_t throttle_segments_ = 0, move_segments_ = 0;
  DirtyLimits dirty_limits_;
  std::unique_ptr<SteppedExecutor> main_, writing_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace pcache
