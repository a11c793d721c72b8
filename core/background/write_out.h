// SPDX-License-Identifier: GPL-2.0-or-later
// WriteOut: from the cache to the backing device: reads pieces from pmem, checks them, merges what
// is contiguous on the device into large writes, many at a time.
//
// Invariants
// - Nothing reaches the device that could not be read, or does not match its key's data_crc. A
//   piece is checked against the whole extent of its key as it was appended.
// - write() returns when nothing is in flight any more, whatever went wrong.
// One thread.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "background/dirty_batch.h"
#include "background/parts.h"

namespace pcache {

class WriteOut {
 public:
  static constexpr unsigned kDepth = 128;
  // The deeper, the faster, and the more completes at once: writes that are let in by what is
  // written (see Pace) then come in bursts, and wait between them.
  static constexpr unsigned kEvenDepth = 32;
  static constexpr uint32_t kWriteBytes = 256 << 10;

  struct Done {
    int error = 0;  // positive errno of the first failed write
    uint64_t bytes = 0, ios = 0;
    std::vector<uint32_t> bad_keys;  // ascending: their data is damaged, or cannot be read
  };

  // `written`: called with the bytes of each write that has succeeded, from write().
  using Written = std::function<void(uint64_t bytes)>;
  static Result<std::unique_ptr<WriteOut>> create(const BackgroundParts& parts, Written written);
  ~WriteOut();

  // So many writes in flight at most: 1 to kDepth.
  Done write(const DirtyBatch& batch, const std::vector<DirtyBatch::Piece>& pieces,
             unsigned depth = kDepth);
  // Makes what write() has written durable. 0 or a positive errno.
  int flush();

 private:
  static constexpr unsigned kPushEvery = 4;
  enum class Verdict : uint8_t { kUnknown, kGood, kBad };
  struct Slot {
    BlockIo io;
    std::byte* buffer = nullptr;
    WriteOut* self = nullptr;
  };

  WriteOut(const BackgroundParts& parts, std::unique_ptr<BlockQueue> device, Written written);
  void prefetch(const DirtyBatch& batch, const DirtyBatch::Piece& piece) const;
  void add(const DirtyBatch& batch, const DirtyBatch::Piece& piece);
  // Loads `len` bytes of the piece, `at` bytes into it; false: not to be written.
  bool load(const DirtyBatch& batch, const DirtyBatch::Piece& piece, uint64_t at, uint32_t len,
            std::byte* dst);
  Slot* free_slot();
  void submit_current();
  void wait_all();
  static void on_written(BlockIo* io);

  const BackgroundParts& parts_;
  std::unique_ptr<BlockQueue> device_;
  const Written written_;
  std::byte* const buffers_;  // untouched they cost no memory
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  unsigned depth_ = kDepth, unpushed_ = 0;
  Slot* current_ = nullptr;  // being filled: io.off and io.len are what it has
  std::vector<Verdict> verdicts_;
  Done done_;
};

}  // namespace pcache
