// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/writeback.h"

#include <algorithm>

#include "base/mutants.h"
#include "keylog/log_cursor.h"

namespace pcache {

using media::Key;

Result<std::unique_ptr<Writeback>> Writeback::create(const BackgroundParts& parts,
                                                     const Options& options) {
  std::unique_ptr<Writeback> writeback(new Writeback(parts, options));
  auto out = WriteOut::create(parts, [self = writeback.get()](uint64_t bytes)
                                         NO_THREAD_SAFETY_ANALYSIS { self->note_written(bytes); });
  if (!out) return out.error();
  writeback->out_ = out.take();
  return writeback;
}

// Superseded data is not written and yet passed: each byte written stands for its share. Some is
// left for marking, so that who is let in by progress need not wait until that is done.
void Writeback::note_written(uint64_t bytes) {
  const uint64_t all = batch_.appended_bytes();
  note_progress(bytes * (all - all / kMarkingShare) / planned_bytes_);
}

void Writeback::note_progress(uint64_t appended_bytes) {
  const uint64_t all = batch_.appended_bytes();
  const uint64_t n = std::min(appended_bytes, all - std::min(all, reported_bytes_));
  reported_bytes_ += n;
  if (n > 0 && options_.progress) options_.progress(n);
}

Error Writeback::failed(Error error) {
  counters_.errors.add();
  return error;
}

Result<bool> Writeback::step(const LogMark& until, uint64_t batch_bytes, unsigned depth) {
  MutexLock lock(mu_);
  if (!behind(until)) return false;
  const auto end = collect(until, batch_bytes);
  if (!end && hazard(Hazard::kMediaErrorIsClean)) return false;
  if (!end) {
    // Ksets that were acknowledged cannot be read any more.
    if (!log_damaged_.exchange(true) && options_.data_lost) options_.data_lost(EIO);
    return failed(end.error());
  }
  // Passing nothing but damaged data would only append it again.
  if (batch_.keys().empty() && others_ == 0 && !damaged_keys_.empty()) {
    stuck_at_.store(until.ksets, std::memory_order_relaxed);
    return false;
  }
  WriteOut::Done done;
  if (auto written = write_out(depth, &done); !written) return failed(written.error());
  if (auto kept = keep_damaged(done.bad_keys); !kept) return failed(kept.error());
  mark_written(done.bad_keys);
  parts_.tails.set_dirty_tail(parts_.pmem, end.value().pos);
  counters_.batches.add();
  counters_.ksets.add(end.value().ksets - passed_ksets());
  counters_.keys.add(batch_.keys().size());
  counters_.appended_bytes.add(batch_.appended_bytes());
  passed_bytes_.store(end.value().dirty_bytes, std::memory_order_release);
  passed_.store(end.value().ksets, std::memory_order_release);
  note_progress(batch_.appended_bytes());
  reported_bytes_ = 0;
  damaged_.passed();
  counters_.bad_keys.set(damaged_.count());
  return true;
}

uint64_t Writeback::damaged_extents() {
  MutexLock lock(mu_);
  const uint64_t count = damaged_.count();
  counters_.bad_keys.set(count);
  return count;
}

// The epoch that bounds the batch is that of its first key to be written; what comes before is only
// passed.
Result<LogMark> Writeback::collect(const LogMark& until, uint64_t batch_bytes) {
  batch_.clear();
  damaged_keys_.clear();
  others_ = 0;
  LogMark at{parts_.tails.dirty_tail(), passed_ksets(), passed_dirty_bytes()};
  uint64_t last = until.ksets;
  LogCursor cursor(parts_.pmem, parts_.segments, at.pos, {.until = until.pos});
  while (at.ksets < last && batch_.appended_bytes() < batch_bytes &&
         batch_.keys().size() < kMostKeys) {
    const auto next = cursor.next();
    if (!next) return next.error();
    const LogItem& item = next.value();
    if (item.kind == LogItem::Kind::kEnd)
      return make_error(EUCLEAN, "log at segment %u:%u: ends before its head: damaged",
                        item.pos.seg.v, item.pos.off);
    at.pos = item.next;
    if (item.kind == LogItem::Kind::kLast) continue;
    for (const Key& key : item.keys) {
      // Dead keys of a log that was damaged: their data is gone.
      const bool live = key.seg_gen == parts_.segments.generation(SegId{key.cache_seg_id});
      if (key.flags & media::kKeyClean || !live) {
        others_++;
        continue;
      }
      at.dirty_bytes += key.len;
      const DamagedData::State state = damaged_.state(key);
      if (state == DamagedData::State::kOverwritten) {
        others_++;
      } else if (state == DamagedData::State::kDamaged) {
        damaged_keys_.push_back(key);
      } else {
        if (batch_.keys().empty()) last = std::min(last, parts_.log.epoch_end_after(at.ksets));
        batch_.add(key);
      }
    }
    at.ksets++;
  }
  return at;
}

Status Writeback::write_out(unsigned depth, WriteOut::Done* done) {
  pieces_ = batch_.pieces();
  by_stripe_ = parts_.stripes.by_stripe(std::span<const DirtyBatch::Piece>(pieces_),
                                        [](const auto& piece) { return piece.extent.off; });
  planned_bytes_ = 0;
  if (pieces_.empty()) return {};
  for (const DirtyBatch::Piece& piece : pieces_) planned_bytes_ += piece.extent.len;
  *done = out_->write(batch_, pieces_, depth);
  counters_.writes.add(done->ios);
  counters_.written_bytes.add(done->bytes);
  if (done->error)
    return error_errno(done->error, "backing device %s: writing back failed",
                       parts_.backing.identity().text.c_str());
  if (done->ios == 0) return {};
  counters_.flushes.add();
  if (const int error = hazard(Hazard::kDirtyTailAheadOfDisk) ? 0 : out_->flush())
    return error_errno(error, "backing device %s: its flush failed",
                       parts_.backing.identity().text.c_str());
  return {};
}

Status Writeback::keep_damaged(const std::vector<uint32_t>& bad) {
  if (bad.empty() && damaged_keys_.empty()) return {};
  uint64_t found = 0;
  for (const Key& key : damaged_keys_) found += damaged_.keep(key);
  for (const uint32_t k : bad) found += damaged_.keep(batch_.keys()[k]);
  if (found > 0 && options_.data_lost) options_.data_lost(EIO);
  return parts_.stripes.close_all();
}

// By pieces: a key without one may name the same data as a later one that is damaged.
void Writeback::mark_written(const std::vector<uint32_t>& bad) {
  const std::span<const DirtyBatch::Piece> pieces(pieces_);
  const auto off = [pieces](uint32_t piece) { return pieces[piece].extent.off; };
  const std::span<const uint32_t> all(by_stripe_);
  for (size_t at = 0; at < all.size();) {
    const auto run = parts_.stripes.run_from(all, at, off);
    parts_.index.prefetch_each(run, off);
    {
      BorrowedLock lock(parts_.stripes.of(off(run.front())).mu);
      for (const uint32_t piece : run) mark_written(pieces[piece], bad);
    }
    at += run.size();
    note_progress(batch_.appended_bytes() / kMarkingShare * run.size() / all.size());
  }
}

void Writeback::mark_written(const DirtyBatch::Piece& piece, const std::vector<uint32_t>& bad) {
  if (std::binary_search(bad.begin(), bad.end(), piece.key)) return;
  parts_.index.mark_clean(piece.extent, batch_.place(piece));
}

}  // namespace pcache
