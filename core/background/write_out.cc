// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/write_out.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/mutants.h"
#include "segment/media_crc.h"

namespace pcache {

Result<std::unique_ptr<WriteOut>> WriteOut::create(const Media& media, Hooks hooks) {
  auto device = media.backing.open_queue(kDepth);
  if (!device) return device.error();
  return std::unique_ptr<WriteOut>(new WriteOut(media, device.take(), std::move(hooks)));
}

WriteOut::WriteOut(const Media& media, std::unique_ptr<BlockQueue> device, Hooks hooks)
    : media_(media),
      device_(std::move(device)),
      hooks_(std::move(hooks)),
      buffers_(static_cast<std::byte*>(std::aligned_alloc(4096, kDepth * size_t{kWriteBytes})),
               &free),
      slots_(kDepth),
      can_punch_(media.backing.makes_holes()) {
  if (!buffers_) throw std::bad_alloc();
  for (size_t i = 0; i < slots_.size(); i++) {
    slots_[i].self = this;
    slots_[i].buffer = buffers_.get() + i * kWriteBytes;  // aligned for any O_DIRECT
    free_.push_back(&slots_[i]);
  }
}

void WriteOut::on_done(BlockIo* io) {
  auto* slot = static_cast<Slot*>(io->ctx);
  WriteOut& self = *slot->self;
  if (io->result) return self.on_failed(slot);
  PCACHE_DCHECK(self.free_.size() < self.slots_.size());
  const bool zeros = makes_zeros(io->op);
  (io->op == BlockOp::kPunchHole ? self.done_.hole_bytes
   : zeros                       ? self.done_.zeroed_bytes
                                 : self.done_.bytes) += io->len;
  (zeros ? self.done_.zero_ios : self.done_.ios)++;
  self.zeroing_ -= zeros;
  (zeros ? self.zeros_failed_in_row_ : self.failed_in_row_) = 0;
  self.free_.push_back(slot);
  const auto& told = zeros ? self.hooks_.zeroed : self.hooks_.written;
  if (told) told(io->len);
}

// Zeros get there otherwise where the device has no such request, or no room for zeros that keep
// theirs, or they have failed as often as a write may.
bool WriteOut::find_other_way(Slot* slot, bool gives_up) {
  BlockIo& io = slot->io;
  if (io.result == EOPNOTSUPP) {
    (io.op == BlockOp::kPunchHole ? can_punch_ : can_zero_) = false;
  } else if (io.result == ENOSPC && io.op == BlockOp::kZero && can_punch_) {
    io.op = BlockOp::kPunchHole;
    device_->submit(&io);
    return true;
  } else if (slot->attempts < kAttempts && !gives_up) {
    return false;
  } else {
    zeros_failed_in_row_++;
  }
  try {
    unmade_.push_back({slot->begin, io.len, io.result});
  } catch (const std::bad_alloc&) {
    done_.untold = true;
  }
  zeroing_--;
  free_.push_back(slot);
  return true;
}

void WriteOut::on_failed(Slot* slot) {
  const bool refused = makes_zeros(slot->io.op) && slot->io.result == EOPNOTSUPP;
  if (!refused) done_.failed_ios++;
  slot->attempts++;
  const bool up = gives_up();  // once: another thread may change it
  if (makes_zeros(slot->io.op) && find_other_way(slot, up)) return;
  if (slot->attempts < kAttempts && !up) return device_->submit(&slot->io);
  PCACHE_DCHECK(!makes_zeros(slot->io.op));
  failed_in_row_++;
  last_error_ = slot->io.result;
  try {
    failed_.push_back({slot->begin, slot->io.len, slot->io.result});
  } catch (const std::bad_alloc&) {
    done_.untold = true;
  }
  free_.push_back(slot);
}

// Gives to the device what is submitted.
void WriteOut::wait() {
  if (hooks_.before_wait) {
    if (unpushed_ > 0) device_->kick();
    hooks_.before_wait();
  }
  unpushed_bytes_ = unpushed_ = 0;
  device_->wait(-1);
}

WriteOut::Slot* WriteOut::free_slot() {
  while (slots_.size() - free_.size() >= limits_.depth) wait();
  PCACHE_DCHECK(!free_.empty());
  Slot* slot = free_.back();
  free_.pop_back();
  return slot;
}

void WriteOut::submit_current() {
  Slot* slot = std::exchange(current_, nullptr);
  if (!slot) return;
  if (slot->io.len == 0) {
    free_.push_back(slot);
    return;
  }
  PCACHE_DCHECK(slot->io.len % kSectorBytes == 0 && slot->io.len <= most_bytes(slot->io.op));
  if (makes_zeros(slot->io.op)) {
    while (zeroing_ >= limits_.zeroing) wait();
    zeroing_++;
  }
  slot->io.buf = slot->buffer;
  slot->io.done = on_done;
  slot->io.ctx = slot;
  slot->attempts = 0;
  if (has_data(slot->io.op)) unpushed_bytes_ += slot->io.len;
  device_->submit(&slot->io);
  if (++unpushed_ < kPushWrites && unpushed_bytes_ < kPushBytes) return;
  unpushed_bytes_ = unpushed_ = 0;
  device_->poll();
}

void WriteOut::wait_all() {
  while (free_.size() < slots_.size()) wait();
}

bool WriteOut::load(const DirtyBatch& batch, const DirtyBatch::Piece& piece, uint64_t at,
                    uint32_t len, std::byte* dst) {
  const media::Key& key = batch.keys()[piece.key];
  if (key.flags & media::kKeyZeros) {
    memset(dst, 0, len);
    return true;
  }
  Verdict& verdict = verdicts_[piece.key];
  if (verdict == Verdict::kBad) return false;
  const CachePos whole{SegId{key.cache_seg_id}, key.cache_seg_off};
  const CachePos pos = batch.place(piece) + static_cast<uint32_t>(at);
  const bool loaded = media_.pmem.load(dst, media_.segments.media(pos), len);
  if (verdict == Verdict::kUnknown) {
    bool good = loaded;
    if (good && media_.data_crc)
      good = len == key.len
                 ? data_crc32c(dst, len) == key.data_crc
                 : media_crc(media_.pmem, media_.segments, whole, key.len) == key.data_crc;
    if (good && (media_.data_crc || len == key.len)) verdict = Verdict::kGood;
    if (!good) verdict = Verdict::kBad;
  } else if (!loaded) {
    verdict = Verdict::kBad;
  }
  if (verdict != Verdict::kBad) return true;
  done_.bad_keys.push_back(piece.key);
  return false;
}

void WriteOut::prefetch(const DirtyBatch& batch, const DirtyBatch::Piece& piece) const {
  if (batch.keys()[piece.key].flags & media::kKeyZeros) return;
  media_.pmem.prefetch(media_.segments.media(batch.place(piece)), piece.extent.len);
}

BlockOp WriteOut::op_for(const media::Key& key) const {
  // A device that fails all of them is not asked for more: what is written tells whether it works.
  if (!(key.flags & media::kKeyZeros) || zeros_failed_in_row_ >= kMostFailedInARow)
    return BlockOp::kWrite;
  if (key.flags & media::kKeyHole && can_punch_) return BlockOp::kPunchHole;
  return can_zero_ ? BlockOp::kZero : BlockOp::kWrite;
}

uint32_t WriteOut::most_bytes(BlockOp op) const {
  if (!makes_zeros(op)) return limits_.write_bytes;
  const uint64_t most = op == BlockOp::kZero ? kZeroBytes : kHoleBytes;
  return static_cast<uint32_t>(most * limits_.write_bytes / kWriteBytes);
}

// The piece that `at` is in, from there on, `most` bytes of it at most; afterwards `at` is behind
// what is in a slot, or bad. False: given up before that.
bool WriteOut::add(const DirtyBatch& batch, Cursor* at, uint64_t most, bool as_data) {
  const DirtyBatch::Piece& piece = pieces_[at->piece];
  PCACHE_DCHECK(at->at <= piece.extent.len && piece.key < verdicts_.size());
  const uint64_t end = at->at + std::min(most, piece.extent.len - at->at);
  while (at->at < end) {
    if (gives_up()) return false;
    const uint64_t off = piece.extent.off + at->at;
    const auto op_now = [&] { return as_data ? BlockOp::kWrite : op_for(batch.keys()[piece.key]); };
    const BlockOp op = op_now();
    if (current_ && (current_->io.op != op || current_->io.off + current_->io.len != off ||
                     current_->io.len >= most_bytes(op)))
      submit_current();
    if (!current_) {
      current_ = free_slot();
      current_->io.op = op;
      current_->io.off = off;
      current_->io.len = 0;
      current_->begin = *at;
      if (gives_up()) return false;
    }
    // A device that had to be waited for may have refused to make zeros.
    if (current_->io.op != op_now()) {
      submit_current();
      continue;
    }
    const auto len =
        static_cast<uint32_t>(std::min<uint64_t>(end - at->at, most_bytes(op) - current_->io.len));
    if (!makes_zeros(op) && !load(batch, piece, at->at, len, current_->buffer + current_->io.len)) {
      at->at = end;  // of what is bad nothing is left to be written
      break;
    }
    current_->io.len += len;
    at->at += len;
  }
  return true;
}

void WriteOut::add_all(const DirtyBatch& batch, PieceDeal& deal) {
  for (bool goes_on = true; goes_on;) {
    const PieceDeal::Part part = deal.next();
    next_ = {part.begin, 0};
    part_end_ = part.end;
    if (part.begin == part.end) break;
    while (next_.piece < part_end_) {
      if (next_.piece + 1 < part_end_) prefetch(batch, pieces_[next_.piece + 1]);
      // The loop does not ask gives_up() again: another thread may have cleared it, and the rest of
      // this piece would be skipped.
      goes_on = add(batch, &next_, UINT64_MAX, false);
      if (!goes_on) break;
      next_ = {next_.piece + 1, 0};
    }
    // What it holds lies before next_, and in one part: tell_left() goes by the pieces' numbers.
    submit_current();
  }
}

// The zeros that the device has not made: as data, or otherwise if it has no such request.
void WriteOut::write_unmade(const DirtyBatch& batch) {
  while (!unmade_.empty()) {
    Failed range = unmade_.back();
    unmade_.pop_back();
    while (range.len > 0) {
      const Cursor from = range.begin;
      const bool added = add(batch, &range.begin, range.len, range.error != EOPNOTSUPP);
      range.len -= range.begin.at - from.at;
      if (!added) {
        range.error = given_up_.load(std::memory_order_relaxed) ? ECANCELED : last_error_;
        failed_.push_back(range);
        break;
      }
      range.begin = {from.piece + 1, 0};
    }
    submit_current();  // the next range is no neighbour of it
  }
}

// The pieces before `end`, and parts of them, that `len` bytes from there on are.
void WriteOut::tell_left(Cursor from, size_t end, uint64_t len,
                         std::vector<DirtyBatch::Piece>* to) const {
  for (; len > 0 && from.piece < end; from = {from.piece + 1, 0}) {
    const DirtyBatch::Piece& piece = pieces_[from.piece];
    const uint64_t part = std::min(len, piece.extent.len - from.at);
    if (part > 0) to->push_back({{piece.extent.off + from.at, part}, piece.key});
    len -= part;
  }
}

WriteOut::Done WriteOut::write(const DirtyBatch& batch, std::span<const DirtyBatch::Piece> pieces,
                               const Limits& limits) {
  PieceDeal all(batch, pieces, PieceDeal::kAllInOne);
  return write(batch, all, limits);
}

WriteOut::Done WriteOut::write(const DirtyBatch& batch, PieceDeal& deal, const Limits& limits) {
  PCACHE_CHECK(limits.depth >= 1 && limits.depth <= kDepth);
  PCACHE_CHECK(limits.write_bytes >= kLeastBytes && limits.write_bytes <= kWriteBytes);
  // What the write() before has begun it has waited for.
  PCACHE_CHECK((free_.size() == slots_.size() && !current_) || hazard(Hazard::kBatchNotWaitedFor));
  limits_ = limits;
  pieces_ = deal.pieces();
  next_ = {};
  part_end_ = 0;
  failed_.clear();
  unmade_.clear();
  failed_in_row_ = zeros_failed_in_row_ = 0;
  last_error_ = EIO;
  done_ = {};
  bool no_memory = false;
  try {
    verdicts_.assign(batch.keys().size(), Verdict::kUnknown);
    add_all(batch, deal);
    if (!hazard(Hazard::kBatchNotWaitedFor)) wait_all();
    while (!unmade_.empty()) {
      write_unmade(batch);
      wait_all();
    }
  } catch (const std::bad_alloc&) {
    no_memory = true;
    if (Slot* slot = std::exchange(current_, nullptr)) free_.push_back(slot);
  }
  if (!hazard(Hazard::kBatchNotWaitedFor)) wait_all();
  try {
    std::sort(failed_.begin(), failed_.end(), [](const Failed& a, const Failed& b) {
      return a.begin.piece != b.begin.piece ? a.begin.piece < b.begin.piece
                                            : a.begin.at < b.begin.at;
    });
    for (const Failed& failed : failed_)
      tell_left(failed.begin, pieces_.size(), failed.len, &done_.failed);
    tell_left(next_, part_end_, UINT64_MAX, &done_.untried);
  } catch (const std::bad_alloc&) {
    no_memory = true;
  }
  done_.untold |= no_memory;
  if (!done_.untried.empty()) done_.error = ECANCELED;
  if (done_.untold) done_.error = ENOMEM;
  if (!failed_.empty()) done_.error = failed_.front().error;
  std::sort(done_.bad_keys.begin(), done_.bad_keys.end());
  PCACHE_CHECK(done_.error != 0 || (done_.failed.empty() && done_.untried.empty()));
  return std::move(done_);
}

void WriteOut::begin_flush() {
  PCACHE_CHECK(!flushing_);
  flushing_ = true;
  flush_ = {};
  flush_.op = BlockOp::kFlush;
  flush_.ctx = this;
  flush_.done = [](BlockIo* io) { static_cast<WriteOut*>(io->ctx)->flushing_ = false; };
  device_->submit(&flush_);
  device_->kick();  // what the kernel does not take now end_flush() gives again
}

int WriteOut::end_flush() {
  while (flushing_) device_->wait(-1);
  return flush_.result;
}

}  // namespace pcache
