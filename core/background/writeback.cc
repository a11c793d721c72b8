// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/writeback.h"

#include <algorithm>
#include <iterator>
#include <new>

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
  counters_.written_bytes.add(bytes);  // at once: who waits for a slow device sees that it works
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

Result<bool> Writeback::step(const LogMark& until, const Size& size) {
  MutexLock lock(mu_);
  try {
    return step_once(until, size);
  } catch (const std::bad_alloc&) {
    return failed(out_of_memory());
  }
}

Result<bool> Writeback::step_once(const LogMark& until, const Size& size) {
  if (!behind(until)) return false;
  if (!under_way_)
    if (auto begun = begin_batch(until, size.bytes); !begun || !begun.value()) return begun;
  if (auto written = write_out(size.depth); !written) return failed(written.error());
  kept_for_ = end_.ksets;
  if (auto kept = keep_damaged(bad_); !kept) return failed(kept.error());
  mark_written(bad_);
  const bool had_failed = parts_.tails.failed();
  if (auto moved = parts_.tails.set_dirty_tail(parts_.pmem, end_.pos); !moved) {
    // What can be saved is: the device goes on getting what is dirty.
    if (!had_failed) parts_.messages.print(LogLevel::kError, "%s", moved.error().text.c_str());
    counters_.errors.add();
  }
  counters_.batches.add();
  counters_.ksets.add(end_.ksets - passed_ksets());
  counters_.keys.add(batch_.keys().size());
  counters_.appended_bytes.add(batch_.appended_bytes());
  passed_bytes_.store(end_.dirty_bytes, std::memory_order_release);
  passed_.store(end_.ksets, std::memory_order_release);
  note_progress(batch_.appended_bytes());
  reported_bytes_ = 0;
  damaged_.passed();
  counters_.bad_keys.set(damaged_.count());
  under_way_ = false;
  return true;
}

Result<bool> Writeback::begin_batch(const LogMark& until, uint64_t batch_bytes) {
  const auto end = collect(until, batch_bytes);
  if (!end && hazard(Hazard::kMediaErrorIsClean)) return false;
  if (!end) {
    // Ksets that were acknowledged cannot be read any more.
    if (!log_damaged_.exchange(true) && options_.data_lost) options_.data_lost(EIO);
    return failed(end.error());
  }
  // Passing nothing but damaged data would only append it again, unless it has been.
  if (batch_.keys().empty() && others_ == 0 && !damaged_keys_.empty() && !damaged_.keeps()) {
    stuck_at_.store(until.ksets, std::memory_order_relaxed);
    return false;
  }
  pieces_ = batch_.pieces();
  by_stripe_ = parts_.stripes.by_stripe(std::span<const DirtyBatch::Piece>(pieces_),
                                        [](const auto& piece) { return piece.extent.off; });
  planned_bytes_ = 0;
  for (const DirtyBatch::Piece& piece : pieces_) planned_bytes_ += piece.extent.len;
  untried_ = pieces_;
  failed_.clear();
  bad_.clear();
  unflushed_ = false;
  end_ = end.value();
  under_way_ = true;
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
  // No further than what was appended again was appended for: it is not appended once more, and
  // dirty_tail must not pass both.
  uint64_t last = damaged_.keeps() ? std::min(until.ksets, kept_for_) : until.ksets;
  LogCursor cursor(parts_.pmem, parts_.segments, at.pos, {.until = until.pos});
  while (at.ksets < last && batch_.appended_bytes() < batch_bytes &&
         batch_.keys().size() < kMostKeys) {
    const auto next = cursor.next();
    if (!next) {
      if (at.ksets == passed_ksets()) return next.error();
      break;  // what is in front of it can be saved; the next batch meets it first
    }
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

// Whatever goes wrong here but a write that fails: nothing is remembered of the batch, and all of
// it is written again.
Status Writeback::write_out(unsigned depth) {
  under_way_ = false;
  const uint64_t failed_before = counters_.failed_writes.load();
  if (auto written = write_pieces(depth); !written) return written;
  tell_repeats(failed_before);
  if (unflushed_) {
    counters_.flushes.add();
    if (const int error = hazard(Hazard::kDirtyTailAheadOfDisk) ? 0 : out_->flush())
      return error_errno(error, "backing device %s: its flush failed",
                         parts_.backing.identity().text.c_str());
    unflushed_ = false;
  }
  under_way_ = true;
  return {};
}

// What failed is tried last, and in small writes: a bad place must not keep what lies beside it, or
// behind it in the batch, from being written.
Status Writeback::write_pieces(unsigned depth) {
  unwritten_.store(0, std::memory_order_relaxed);
  const auto untold = [&](int error) {
    if (error == ENOMEM) return out_of_memory();
    return error_errno(error, "backing device %s: writing back failed",
                       parts_.backing.identity().text.c_str());
  };
  WriteOut::Done done = write(untried_, {.depth = depth});
  if (done.untold) return untold(done.error);
  untried_ = std::move(done.untried);
  failed_.insert(failed_.end(), done.failed.begin(), done.failed.end());
  if (untried_.empty() && !failed_.empty()) {
    done = write(failed_, {.depth = depth, .write_bytes = WriteOut::kLeastBytes});
    if (done.untold) return untold(done.error);
    failed_ = std::move(done.untried);  // first, next time
    failed_.insert(failed_.end(), done.failed.begin(), done.failed.end());
  }
  if (failed_.empty() && untried_.empty()) return {};
  Error error = what_is_left(done.error);
  under_way_ = true;
  return error;
}

WriteOut::Done Writeback::write(const std::vector<DirtyBatch::Piece>& pieces,
                                const WriteOut::Limits& limits) {
  WriteOut::Done done = out_->write(batch_, pieces, limits);
  counters_.writes.add(done.ios);
  counters_.failed_writes.add(done.failed_ios);
  unflushed_ |= done.ios > 0;
  if (done.bad_keys.empty()) return done;
  std::vector<uint32_t> bad;
  std::set_union(bad_.begin(), bad_.end(), done.bad_keys.begin(), done.bad_keys.end(),
                 std::back_inserter(bad));
  bad_ = std::move(bad);
  return done;
}

Error Writeback::what_is_left(int error) {
  uint64_t bytes = 0;
  for (const auto* pieces : {&untried_, &failed_})
    for (const DirtyBatch::Piece& piece : *pieces) bytes += piece.extent.len;
  unwritten_.store(bytes, std::memory_order_relaxed);
  Extent first =
      (failed_.empty() ? untried_ : failed_).front().extent;  // given up: none has failed
  for (const DirtyBatch::Piece& piece : failed_)
    if (piece.extent.off < first.off) first = piece.extent;
  return error_errno(
      error,
      "backing device %s: writing back failed at %llu+%llu, %llu bytes of its batch "
      "are left",
      parts_.backing.identity().text.c_str(), static_cast<unsigned long long>(first.off),
      static_cast<unsigned long long>(first.len), static_cast<unsigned long long>(bytes));
}

void Writeback::tell_repeats(uint64_t failed_before) {
  if (counters_.failed_writes.load() == failed_before || repeats_told_) return;
  repeats_told_ = true;
  parts_.messages.print(LogLevel::kWarning,
                        "writeback: backing device %s: writes failed, and succeeded when they were "
                        "repeated; failed_writes of the status counts such",
                        parts_.backing.identity().text.c_str());
}

Status Writeback::keep_damaged(const std::vector<uint32_t>& bad) {
  if (bad.empty() && damaged_keys_.empty()) return {};
  uint64_t found = 0;
  const auto report = [&] {
    if (found > 0 && options_.data_lost) options_.data_lost(EIO);
  };
  try {
    for (const Key& key : damaged_keys_) damaged_.keep(key, &found);
    for (const uint32_t k : bad) damaged_.keep(batch_.keys()[k], &found);
  } catch (const std::bad_alloc&) {
    report();
    throw;
  }
  report();
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
      BorrowedStripeLock lock(parts_.stripes.of(off(run.front())));
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
