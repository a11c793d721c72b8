// SPDX-License-Identifier: GPL-2.0-or-later
// WriteOuts: one write() by several WriteOuts at the same time, each with a thread and a queue of
// the device of its own.
//
// Invariants
// - What they are given is of one epoch and does not overlap, so it may reach the device in any
//   order. write() returns when none of them has anything in flight.
// - A flush covers what all of them have written: it is submitted when that has completed, and the
//   device's flush is for all of its queues.
// - Each tries kMostFailedInARow writes in vain before it stops; the others go on with what is
//   left.
// - Hooks are called by the thread that calls write(), also for what the others have done.
// - Where the threads, queues or memory of others cannot be had there are fewer.
// Locks: those of the Crew and of the PieceDeal, which are leaves.
// One thread, but give_up().
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "background/piece_deal.h"
#include "background/write_out.h"
#include "base/crew.h"

namespace pcache {

class WriteOuts {
 public:
  // Of one thread's turn: much less, and they meet too often at the deal.
  static constexpr uint64_t kPartBytes = 1 << 20;
  // With less data than that one is enough: to wake another takes as long as to write some pages.
  static constexpr uint64_t kLeastBytes = 2 * kPartBytes;
  static constexpr unsigned kMost = 4;  // the device is the limit then, or what is done alone
  // Of each one's queue: what is given to the device together costs one system call.
  static constexpr unsigned kLeastDepth = 16;
  // In which the hooks are told at the latest what the others have done.
  static constexpr std::chrono::milliseconds kTold{2};

  struct Limits {
    unsigned depth = WriteOut::kDepth;  // writes in flight, of all together
    uint32_t write_bytes = WriteOut::kWriteBytes;
    bool several = false;  // else the caller's thread does it alone
  };

  // How many threads are of use: the CPUs that this process may use, kMost at most; 1 where a
  // server has the device, which is slower than one thread, and for a simulator's memory, whose
  // order of events would not be the same twice.
  static unsigned threads_for(PmemKind kind, const BlockDevice& backing);
  // `threads`, at least 1, with the caller's.
  static Result<std::unique_ptr<WriteOuts>> create(const WriteOut::Media& media,
                                                   WriteOut::Hooks hooks, unsigned threads);

  size_t threads() const { return outs_.size(); }
  // As those of WriteOut:
  bool makes_holes() const;
  WriteOut::Done write(const DirtyBatch& batch, std::span<const DirtyBatch::Piece> pieces,
                       const Limits& limits);
  void give_up(bool on);
  void begin_flush() { outs_[0]->begin_flush(); }
  int end_flush() { return outs_[0]->end_flush(); }

 private:
  WriteOuts(WriteOut::Hooks hooks, unsigned helpers) : hooks_(std::move(hooks)), crew_(helpers) {}
  WriteOut::Hooks own_hooks();
  WriteOut::Hooks helper_hooks();
  void pass_on();
  size_t useful(const DirtyBatch& batch, std::span<const DirtyBatch::Piece> pieces,
                const Limits& limits) const;
  void meanwhile();
  WriteOut::Done merged(std::span<const WriteOut::Done> parts, PieceDeal& deal);

  const WriteOut::Hooks hooks_;
  // Done by the crew, and not told yet, in bytes.
  std::atomic<uint64_t> written_{0}, zeroed_{0};
  std::vector<std::unique_ptr<WriteOut>> outs_;  // the first is the caller's
  std::vector<WriteOut::Done> done_;             // of each, in a write()
  std::thread::id caller_;                       // of that write()
  Crew crew_;                                    // last: its tasks use the others
};

}  // namespace pcache
