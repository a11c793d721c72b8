// SPDX-License-Identifier: GPL-2.0-or-later
// WriteOut: from the cache to the backing device: reads pieces from pmem, checks them, merges what
// is contiguous on the device into large writes, many at a time.
//
// Invariants
// - Of zeros (kKeyZeros) nothing is read: the device makes them, or is given some where it cannot.
// - Nothing reaches the device that could not be read, or does not match its key's data_crc. A
//   piece is checked against the whole extent of its key as it was appended.
// - write() returns when nothing is in flight any more, whatever went wrong.
// - A write that fails is repeated alone, some times at once; what has been written is not written
//   again. What it could not do is told piece by piece, to be given to a later write().
// - A device that fails everything is not asked for all of a batch.
// One thread.
#pragma once

#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "background/piece_deal.h"
#include "blockdev/block_device.h"
#include "pmem/pmem.h"
#include "segment/segment_table.h"
#include "segment/space_policy.h"

namespace pcache {

class WriteOut {
 public:
  static constexpr unsigned kDepth = kDeepestQueue;
  static constexpr uint32_t kWriteBytes = 256 << 10;
  static constexpr uint32_t kLeastBytes = 4 << 10;
  // Of one request for a hole, or for zeros, which the device may have to write; where others are
  // shorter, these are by as much. So many are in flight, since no one can be given up.
  static constexpr uint32_t kHoleBytes = 1 << 30, kZeroBytes = 16 << 20;
  static constexpr uint32_t kMostZeroing = 8;
  static constexpr uint32_t kAttempts = 4;  // of one write, before it is left
  // After so many writes in a row that used up their attempts, write() does not try the rest.
  static constexpr uint32_t kMostFailedInARow = 16;

  struct Limits {
    unsigned depth = kDepth;             // writes in flight: 1 to kDepth
    uint32_t write_bytes = kWriteBytes;  // of one: kLeastBytes to kWriteBytes
    uint32_t zeroing = kMostZeroing;     // requests for zeros in flight, at least 1
  };
  struct Done {
    // Positive errno of the first in `failed`, ENOMEM or ECANCELED; 0: all is written but what is
    // bad.
    int error = 0;
    uint64_t bytes = 0, ios = 0;  // that succeeded, with data
    uint64_t zero_ios = 0;        // that made holes, or zeros
    uint64_t hole_bytes = 0, zeroed_bytes = 0;
    uint64_t failed_ios = 0;                // attempts
    std::vector<uint32_t> bad_keys;         // ascending: their data is damaged, or cannot be read
    std::vector<DirtyBatch::Piece> failed;  // ascending in themselves: tried in vain
    std::vector<DirtyBatch::Piece>
        untried;  // likewise: not tried, as the device fails everything, or given up
    // There was no memory to tell what is left: all may be.
    bool untold = false;
  };

  // Where data comes from, and goes to. They outlive it.
  struct Media {
    const Pmem& pmem;
    const SegmentTable& segments;
    BlockDevice& backing;
    bool data_crc = false;
  };
  // Called from write().
  struct Hooks {
    std::function<void(uint64_t bytes)> written = nullptr;  // a write of so many has succeeded
    std::function<void(uint64_t bytes)> zeroed = nullptr;   // likewise of zeros, without data
    std::function<void()> before_wait = nullptr;  // the device has all that is to be done now
  };
  static Result<std::unique_ptr<WriteOut>> create(const Media& media, Hooks hooks);

  // Not once it has refused to.
  bool makes_holes() const { return can_punch_; }
  Done write(const DirtyBatch& batch, std::span<const DirtyBatch::Piece> pieces,
             const Limits& limits);
  // Memory for a write() of so many keys: afterwards one that has no memory has begun, at least.
  void reserve(size_t keys) { verdicts_.reserve(keys); }
  // What it is dealt of them; of the rest nothing is told.
  Done write(const DirtyBatch& batch, PieceDeal& deal, const Limits& limits);
  // From now on write() tries no more than what is in flight, and tells the rest as untried with
  // ECANCELED; or goes on. Any thread.
  void give_up(bool on) { given_up_.store(on, std::memory_order_relaxed); }
  // Makes what write() has written durable: in two steps, since the caller has something to do
  // while the device flushes. end_flush(): 0 or a positive errno.
  void begin_flush();
  int end_flush();

 private:
  // So many writes, or bytes, are given to the device together: each time costs a system call, and
  // where the device is a virtual one an exit to the hypervisor, which takes longer than to load
  // all of these.
  static constexpr unsigned kPushWrites = kHurriedDepth;
  static constexpr uint32_t kPushBytes = 256 << 10;
  enum class Verdict : uint8_t { kUnknown, kGood, kBad };
  // A place in what write() was given.
  struct Cursor {
    size_t piece = 0;
    uint64_t at = 0;  // bytes into it
  };
  struct Slot {
    BlockIo io;
    std::byte* buffer = nullptr;
    WriteOut* self = nullptr;
    Cursor begin;  // of what is in it
    uint32_t attempts = 0;
  };
  struct Failed {
    Cursor begin;
    uint64_t len;
    int error;
  };

  WriteOut(const Media& media, std::unique_ptr<BlockQueue> device, Hooks hooks);
  void prefetch(const DirtyBatch& batch, const DirtyBatch::Piece& piece) const;
  BlockOp op_for(const media::Key& key) const;
  uint32_t most_bytes(BlockOp op) const;
  bool add(const DirtyBatch& batch, Cursor* at, uint64_t most, bool as_data);
  void add_all(const DirtyBatch& batch, PieceDeal& deal);
  // Loads `len` bytes of the piece, `at` bytes into it; false: not to be written.
  bool load(const DirtyBatch& batch, const DirtyBatch::Piece& piece, uint64_t at, uint32_t len,
            std::byte* dst);
  Slot* free_slot();
  void submit_current();
  void wait();
  void wait_all();
  bool gives_up() const {
    return failed_in_row_ >= kMostFailedInARow || given_up_.load(std::memory_order_relaxed);
  }
  void tell_left(Cursor from, size_t end, uint64_t len, std::vector<DirtyBatch::Piece>* to) const;
  static void on_done(BlockIo* io);
  void on_failed(Slot* slot);
  bool find_other_way(Slot* slot, bool gives_up);
  void write_unmade(const DirtyBatch& batch);

  const Media media_;
  std::unique_ptr<BlockQueue> device_;
  const Hooks hooks_;
  const std::unique_ptr<std::byte[], decltype(&free)> buffers_;  // untouched they cost no memory
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  // Submitted, and not yet given to the device.
  unsigned unpushed_ = 0;
  uint32_t unpushed_bytes_ = 0;
  Slot* current_ = nullptr;  // being filled: io.off and io.len are what it has
  // Of the write() under way:
  Limits limits_;
  std::span<const DirtyBatch::Piece> pieces_;
  Cursor next_;          // of its part up to here everything is in a slot, or was
  size_t part_end_ = 0;  // the part goes up to that piece
  std::vector<Failed> failed_;
  std::vector<Failed> unmade_;  // zeros that the device does not make: to be written
  uint32_t zeroing_ = 0;        // in flight
  uint32_t failed_in_row_ = 0, zeros_failed_in_row_ = 0;
  int last_error_ = 0;
  std::vector<Verdict> verdicts_;
  Done done_;
  std::atomic<bool> given_up_{false};
  bool can_punch_;        // until it has refused; false: it is known to
  bool can_zero_ = true;  // likewise

  BlockIo flush_;
  bool flushing_ = false;
};

}  // namespace pcache
