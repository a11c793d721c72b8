// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/write_out.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/mutants.h"
#include "segment/media_crc.h"

namespace pcache {

Result<std::unique_ptr<WriteOut>> WriteOut::create(const BackgroundParts& parts, Written written) {
  auto device = parts.backing.open_queue(kDepth);
  if (!device) return device.error();
  return std::unique_ptr<WriteOut>(new WriteOut(parts, device.take(), std::move(written)));
}

WriteOut::WriteOut(const BackgroundParts& parts, std::unique_ptr<BlockQueue> device,
                   Written written)
    : parts_(parts),
      device_(std::move(device)),
      written_(std::move(written)),
      buffers_(static_cast<std::byte*>(std::aligned_alloc(4096, kDepth * size_t{kWriteBytes}))),
      slots_(kDepth) {
  if (!buffers_) throw std::bad_alloc();
  for (size_t i = 0; i < slots_.size(); i++) {
    slots_[i].self = this;
    slots_[i].buffer = buffers_ + i * kWriteBytes;  // aligned for any O_DIRECT
    free_.push_back(&slots_[i]);
  }
}

WriteOut::~WriteOut() { free(buffers_); }

void WriteOut::on_written(BlockIo* io) {
  auto* slot = static_cast<Slot*>(io->ctx);
  WriteOut& self = *slot->self;
  if (io->result && self.done_.error == 0) self.done_.error = io->result;
  self.free_.push_back(slot);
  if (io->result == 0 && self.written_) self.written_(io->len);
}

WriteOut::Slot* WriteOut::free_slot() {
  while (slots_.size() - free_.size() >= depth_) device_->wait(-1);
  Slot* slot = free_.back();
  free_.pop_back();
  return slot;
}

void WriteOut::submit_current() {
  Slot* slot = std::exchange(current_, nullptr);
  if (!slot) return;
  if (slot->io.len == 0 || done_.error) {
    free_.push_back(slot);
    return;
  }
  done_.bytes += slot->io.len;
  done_.ios++;
  slot->io.op = BlockOp::kWrite;
  slot->io.buf = slot->buffer;
  slot->io.done = on_written;
  slot->io.ctx = slot;
  device_->submit(&slot->io);
  // Pushed a few at a time: fewer system calls, and the device never runs dry.
  if (++unpushed_ < kPushEvery) return;
  unpushed_ = 0;
  device_->poll();
}

void WriteOut::wait_all() {
  while (free_.size() < slots_.size()) device_->wait(-1);
}

bool WriteOut::load(const DirtyBatch& batch, const DirtyBatch::Piece& piece, uint64_t at,
                    uint32_t len, std::byte* dst) {
  const media::Key& key = batch.keys()[piece.key];
  Verdict& verdict = verdicts_[piece.key];
  if (verdict == Verdict::kBad) return false;
  const CachePos whole{SegId{key.cache_seg_id}, key.cache_seg_off};
  const CachePos pos = batch.place(piece) + static_cast<uint32_t>(at);
  const bool loaded = parts_.pmem.load(dst, parts_.segments.media(pos), len);
  if (verdict == Verdict::kUnknown) {
    bool good = loaded;
    if (good && parts_.data_crc)
      good = len == key.len
                 ? data_crc32c(dst, len) == key.data_crc
                 : media_crc(parts_.pmem, parts_.segments, whole, key.len) == key.data_crc;
    if (good && (parts_.data_crc || len == key.len)) verdict = Verdict::kGood;
    if (!good) verdict = Verdict::kBad;
  } else if (!loaded) {
    verdict = Verdict::kBad;
  }
  if (verdict != Verdict::kBad) return true;
  done_.bad_keys.push_back(piece.key);
  return false;
}

void WriteOut::prefetch(const DirtyBatch& batch, const DirtyBatch::Piece& piece) const {
  parts_.pmem.prefetch(parts_.segments.media(batch.place(piece)), piece.extent.len);
}

void WriteOut::add(const DirtyBatch& batch, const DirtyBatch::Piece& piece) {
  for (uint64_t at = 0; at < piece.extent.len && done_.error == 0;) {
    const uint64_t off = piece.extent.off + at;
    if (current_ && (current_->io.off + current_->io.len != off || current_->io.len == kWriteBytes))
      submit_current();
    if (!current_) {
      current_ = free_slot();
      current_->io.off = off;
      current_->io.len = 0;
    }
    const auto len = static_cast<uint32_t>(
        std::min<uint64_t>(piece.extent.len - at, kWriteBytes - current_->io.len));
    if (!load(batch, piece, at, len, current_->buffer + current_->io.len)) return;
    current_->io.len += len;
    at += len;
  }
}

WriteOut::Done WriteOut::write(const DirtyBatch& batch,
                               const std::vector<DirtyBatch::Piece>& pieces, unsigned depth) {
  PCACHE_CHECK(depth >= 1 && depth <= kDepth);
  depth_ = depth;
  done_ = {};
  verdicts_.assign(batch.keys().size(), Verdict::kUnknown);
  try {
    for (size_t i = 0; i < pieces.size() && !done_.error; i++) {
      if (i + 1 < pieces.size()) prefetch(batch, pieces[i + 1]);
      add(batch, pieces[i]);
    }
    submit_current();
  } catch (const std::bad_alloc&) {
    done_.error = ENOMEM;
    submit_current();  // gives it back
  }
  if (!hazard(Hazard::kBatchNotWaitedFor)) wait_all();
  std::sort(done_.bad_keys.begin(), done_.bad_keys.end());
  return std::move(done_);
}

int WriteOut::flush() {
  struct Flush {
    BlockIo io;
    bool over = false;
  } flush;
  flush.io.op = BlockOp::kFlush;
  flush.io.ctx = &flush;
  flush.io.done = [](BlockIo* io) { static_cast<Flush*>(io->ctx)->over = true; };
  device_->submit(&flush.io);
  while (!flush.over) device_->wait(-1);
  return flush.io.result;
}

}  // namespace pcache
