// SPDX-License-Identifier: GPL-2.0-or-later
// TraceLayout: where the blocks of a trace lie on the backing device that it is replayed on.
//
// Invariants
// - A block of a trace of bytes is 4 KiB of it, of a trace of blocks one of these.
// - Blocks that the trace names lie side by side, in the order of their numbers, and nothing
// between
//   them: the device holds what is touched, however far apart that was. So the blocks of a request,
//   all of which it touches, stay in a row.
#pragma once

#include <memory>
#include <string>

#include "sweep/trace.h"

namespace pcache::sweep {

class TraceLayout {
 public:
  // `block_bytes`: what each block becomes. Then a request becomes the whole blocks that it
  // touches. 0: requests stay as they are, which those of a trace of blocks cannot. Throws Wrong:
  // a request, or the whole, becomes too large.
  TraceLayout(std::shared_ptr<const Trace> trace, uint64_t block_bytes);

  const Trace& trace() const { return *trace_; }
  uint64_t blocks() const { return blocks_; }  // that the trace names
  uint64_t block_bytes() const { return block_bytes_; }
  // Of them: what the device must have, and of what a cache's capacity is a share.
  uint64_t bytes() const { return blocks_ * block_bytes_; }
  uint64_t requested_bytes() const { return requested_bytes_; }  // by all requests

  struct Range {
    uint64_t off = 0, len = 0;
  };
  Range bytes_of(const Access& access) const;   // on the device
  Range blocks_of(const Access& access) const;  // from 0 on

  // For fio, version 2; the device's name in it is kDevice.
  static constexpr const char* kDevice = "trace";
  std::string iolog() const;

 private:
  struct Run {  // of blocks with numbers in a row
    uint64_t first = 0, end = 0, packed = 0;
  };
  uint64_t packed(uint64_t block) const;
  void find_runs();

  const std::shared_ptr<const Trace> trace_;
  const bool as_it_is_;
  const uint64_t block_bytes_, unit_;  // of a block, there and in the trace
  std::vector<Run> runs_;              // by number, none touching the next
  uint64_t blocks_ = 0, requested_bytes_ = 0;
};

}  // namespace pcache::sweep
