// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/settle.h"

#include <algorithm>
#include <new>

#include "base/mutants.h"

namespace pcache {

using media::Key;

std::function<KeyFate(const Key&)> Settler::fate() {
  if (!damaged_.any()) return nullptr;
  return [this](const Key& key) {
    switch (damaged_.state(key)) {
      case DamagedData::State::kOverwritten:
        return KeyFate::kPass;
      case DamagedData::State::kDamaged:
        return KeyFate::kKeep;
      case DamagedData::State::kNotKnown:
        break;
    }
    return KeyFate::kWrite;
  };
}

std::vector<uint32_t> Settler::order_of(const BatchPlan& plan) const {
  return parts_.stripes.by_stripe(std::span<const DirtyBatch::Piece>(plan.pieces),
                                  [](const auto& piece) { return piece.extent.off; });
}

Status Settler::settle(const BatchPlan& plan, const WrittenBatch& written,
                       std::span<const uint32_t> order, bool* tail_failed) {
  PCACHE_CHECK(plan.begin.ksets == ksets_ && plan.begin.pos == parts_.tails.dirty_tail());
  PCACHE_CHECK(written.all_written() && !written.unflushed);
  PCACHE_CHECK(order.size() == plan.pieces.size());
  PCACHE_CHECK(plan.end.ksets > plan.begin.ksets &&
               (plan.end.pos.seg != plan.begin.pos.seg || plan.end.pos.off > plan.begin.pos.off));
  PCACHE_CHECK(plan.end.ksets <= farthest_end());
  appended_for_ = plan.end.ksets;
  if (auto kept = keep_damaged(plan, written); !kept) {
    // Not for want of space on the device, which has it.
    if (kept.error().code != ENOSPC) return kept;
    return make_error(EAGAIN, "%s", kept.error().text.c_str());
  }
  mark_clean(plan, written, order);
  const bool had_failed = parts_.tails.failed();
  Status moved;
  if (parts_.follows && !hazard(Hazard::kFrontMovesDirtyTail))
    parts_.tails.follow_dirty_tail(plan.end.pos);
  else
    moved = parts_.tails.set_dirty_tail(parts_.pmem, plan.end.pos);
  // What can be saved is: the device goes on getting what is dirty.
  if (!moved && !had_failed)
    parts_.messages.print(LogLevel::kError, "%s", moved.error().text.c_str());
  *tail_failed = !moved;
  ksets_ = plan.end.ksets;
  dirty_bytes_ = plan.end.dirty_bytes;
  damaged_.passed();
  return {};
}

// Each is a kset of its own: attach, and check, take a kset of several keys that stands in the log
// twice, and whose data can be read, for one that was copied over another.
Status Settler::keep_damaged(const BatchPlan& plan, const WrittenBatch& written) {
  if (written.bad_keys.empty() && plan.damaged.empty()) return {};
  uint64_t found = 0;
  const auto report = [&] {
    if (found > 0 && options_.data_lost) options_.data_lost(EIO);
  };
  const auto keep = [&](const Key& key) {
    damaged_.keep(key, &found);
    return parts_.stripes.close_all();
  };
  Status closed;
  try {
    for (size_t i = 0; i < plan.damaged.size() && closed; i++) closed = keep(plan.damaged[i]);
    for (size_t i = 0; i < written.bad_keys.size() && closed; i++)
      closed = keep(plan.batch.keys()[written.bad_keys[i]]);
  } catch (const std::bad_alloc&) {
    report();
    throw;
  }
  report();
  return closed;
}

// Goes by pieces: a key without one is superseded, and may name the same data as a later key that
// is damaged.
void Settler::mark_clean(const BatchPlan& plan, const WrittenBatch& written,
                         std::span<const uint32_t> order) {
  const auto off = [&plan](uint32_t piece) { return plan.pieces[piece].extent.off; };
  const bool keeps = parts_.mode->answers().keeps_writes;
  for (size_t at = 0; at < order.size();) {
    const auto run = parts_.stripes.run_from(order, at, off);
    parts_.index.prefetch_each(run, off);
    {
      BorrowedStripeLock lock(parts_.stripes.of(off(run.front())));
      for (const uint32_t number : run) {
        const DirtyBatch::Piece& piece = plan.pieces[number];
        if (std::binary_search(written.bad_keys.begin(), written.bad_keys.end(), piece.key))
          continue;
        parts_.index.mark_clean(piece.extent, plan.batch.place(piece));
        // Of a large range zeros would fill the DRAM, and a read of the device costs as much.
        if (!keeps || plan.batch.keys()[piece.key].flags & media::kKeyZeros)
          (void)parts_.index.remove(piece.extent, plan.batch.place(piece));
      }
    }
    at += run.size();
    if (options_.marked) options_.marked(run.size(), order.size());
  }
}

}  // namespace pcache
