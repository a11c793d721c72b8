// SPDX-License-Identifier: GPL-2.0-or-later
// MemoryDevice: a backing device in memory whose completions a test holds back and lets go.
//
// A read takes its data when it is submitted, as a slow disk may, and puts it into the caller's
// buffer when it completes: the test decides what happens in between. Any thread, as for every
// BlockDevice.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/growing_size.h"
#include "base/ids.h"
#include "blockdev/block_device.h"

namespace pcache {

class MemoryQueue;

class MemoryDevice : public BlockDevice {
 public:
  // The content of each sector tells its number, see pattern().
  explicit MemoryDevice(uint64_t size_bytes, uint32_t block_bytes = 512);
  ~MemoryDevice() override;

  uint64_t size_bytes() const override { return size_; }
  Result<uint64_t> measure_again() override;
  Status sync_size() const override {
    if (sync_error_) return make_error(sync_error_, "fsync fails");
    return {};
  }
  uint32_t logical_block_bytes() const override { return block_bytes_; }
  const DeviceIdentity& identity() const override { return identity_; }
  const char* io_mode_name() const override { return "memory"; }
  bool makes_holes() const override { return true; }
  bool is_hole(uint64_t, uint64_t* end) const override {
    *end = size_;
    return false;
  }
  Result<std::unique_ptr<BlockQueue>> open_queue(unsigned depth) override;

  void set_identity(std::string text, bool unique = true) {
    identity_.text = std::move(text);
    identity_.unique = unique;
  }
  // What measure_again() finds from now on. There is memory for 4 times what it was made with.
  void set_real_size(uint64_t bytes);
  // What sync_size() fails with from now on; 0: it succeeds.
  void set_sync_error(int code) { sync_error_ = code; }
  // Changes the content without a request.
  void poke(uint64_t off, std::span<const std::byte> bytes);
  std::vector<std::byte> peek(uint64_t off, uint64_t len) const { return load(off, len); }
  // The initial content of the sectors of [off, off + len).
  static std::vector<std::byte> pattern(uint64_t off, uint64_t len);

  // From now on submitted requests are held until they are released. A released one completes when
  // its queue is polled.
  void hold();
  void release_all();          // also ends hold()
  void release(size_t index);  // the held request number `index`, in order of submission
  size_t held() const;
  size_t most_held() const;  // since hold()
  // False: kick() reports that the kernel has no memory for more. Requests are taken all the same.
  void set_takes_requests(bool takes) { takes_requests_ = takes; }
  bool takes_requests() const { return takes_requests_; }
  // wait() of a queue releases the requests held by then: for a waiter without another thread.
  void set_release_on_wait(bool on);
  // The requests submitted next complete with this errno; 0: they work again.
  void set_error(int error);
  void set_error(BlockOp op, int error);  // those of one kind
  // Asked for each request when it is submitted: how it ends. Called with no lock held.
  struct Fate {
    int error = 0;
    // For a write that fails: so many of its bytes reach the device all the same.
    uint64_t written_bytes = 0;
  };
  void set_fate(std::function<Fate(BlockOp op, const Extent& extent)> fate) {
    fate_ = std::move(fate);
  }
  // Called for each write, of zeros too, and flush when it is submitted and when it completes, in
  // that order. `bytes`: what may reach the device of a write. Called with a lock held.
  struct Change {
    BlockOp op;
    bool completed;
    uint64_t id;  // of the request
    uint64_t off;
    std::span<const std::byte> bytes;
    int error;  // when completed
  };
  void set_on_change(std::function<void(const Change&)> to) { on_change_ = std::move(to); }

  // Extents of all reads submitted so far.
  std::vector<Extent> reads() const;

  // The writes, of zeros too, and flushes that succeeded, in order of submission: from them follows
  // what a loss of power can leave. Kept since start_journal(), which empties it.
  struct Event {
    BlockOp op;
    Extent extent;
    std::vector<std::byte> bytes;
  };
  void start_journal();
  std::vector<Event> journal() const;

 private:
  friend class MemoryQueue;
  struct Request {
    BlockIo* io;
    MemoryQueue* queue;
    std::vector<std::byte> data;
    int error;
    uint64_t id;
  };
  void finish(Request request);
  void submit(MemoryQueue* queue, BlockIo* io);
  void before_wait();
  void release_held();

  std::vector<std::byte> load(uint64_t off, uint64_t len) const;

  static constexpr uint64_t kMostTimes = 4;

  const uint64_t most_bytes_;
  GrowingSize size_;
  std::atomic<uint64_t> real_size_;
  int sync_error_ = 0;
  const uint32_t block_bytes_;
  DeviceIdentity identity_{"memory device", true, true};
  std::byte* const
      changes_;  // content XOR pattern(): zeros, which take no memory, where nothing was written
  mutable std::mutex mu_;
  bool holding_ = false;
  bool release_on_wait_ = false;
  std::atomic<bool> takes_requests_ = true;
  std::array<int, kBlockOps> errors_{};  // by BlockOp
  std::deque<Request> held_;
  size_t most_held_ = 0;
  std::vector<Extent> reads_;
  std::function<Fate(BlockOp, const Extent&)> fate_;
  std::function<void(const Change&)> on_change_;
  uint64_t next_id_ = 0;
  bool journaling_ = false;
  std::vector<Event> journal_;
};

}  // namespace pcache
