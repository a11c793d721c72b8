// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/plan.h"

#include <algorithm>

namespace pcache {

using media::Key;

namespace {

class Planner {
 public:
  Planner(KsetSource& log, const PlanOptions& options, BatchPlan* plan)
      : log_(log), options_(options), plan_(*plan) {}

  Status collect() {
    LogMark& at = plan_.end;
    while (at.ksets < options_.end_ksets && size_bytes() < options_.batch_bytes &&
           plan_.batch.keys().size() + plan_.moves.size() < kMostPlannedKeys) {
      const auto next = log_.next();
      // What is in front of damage can be saved; the next batch meets it first.
      if (!next && !plan_.empty()) break;
      if (!next) return next.error();
      const LogItem& item = next.value();
      const bool ends = item.kind == LogItem::Kind::kEnd;
      if (ends && (options_.ends_with_log || !plan_.empty())) break;
      if (ends)
        return make_error(EUCLEAN, "log at segment %u:%u: ends before its head: damaged",
                          item.pos.seg.v, item.pos.off);
      if (item.kind == LogItem::Kind::kKeys && (is_behind_barrier(item) || is_busy(item.keys)))
        break;
      at.pos = item.next;
      if (item.kind == LogItem::Kind::kLast) continue;
      if (options_.prefetch) options_.prefetch(item.keys);
      for (const Key& key : item.keys) take(key);
      at.ksets++;
    }
    return {};
  }

 private:
  uint64_t size_bytes() const { return plan_.passed_bytes() + plan_.costly_zero_bytes; }
  bool is_dirty(const Key& key) const {
    return !(key.flags & media::kKeyClean) && log_.is_live(key);
  }
  bool is_behind_barrier(const LogItem& kset) const {
    const bool writes = options_.in_epoch || plan_.epoch_from != BatchPlan::kNoEpoch;
    return options_.strict && writes && !kset.same_epoch;
  }
  bool is_busy(std::span<const Key> keys) const {
    if (!options_.busy) return false;
    return std::any_of(keys.begin(), keys.end(), [this](const Key& key) {
      return is_dirty(key) && options_.busy({key.off, key.len});
    });
  }
  void take(const Key& key) {
    if (!is_dirty(key)) {
      plan_.other_keys++;
      return;
    }
    const bool zeros = key.flags & media::kKeyZeros;
    plan_.end.dirty_bytes += key.len;
    switch (options_.fate ? options_.fate(key, plan_.end.ksets) : KeyFate::kWrite) {
      case KeyFate::kPass:
        plan_.other_keys++;
        return;
      case KeyFate::kSuperseded:
        plan_.superseded_keys++;
        (zeros ? plan_.superseded_zero_bytes : plan_.superseded_bytes) += key.len;
        plan_.passed_from = std::min(plan_.passed_from, plan_.end.ksets);
        return;
      case KeyFate::kMove:
        PCACHE_DCHECK(!zeros);
        plan_.moves.push_back(key);
        plan_.moved_bytes += key.len;
        plan_.passed_from = std::min(plan_.passed_from, plan_.end.ksets);
        return;
      case KeyFate::kKeep:
        plan_.damaged.push_back(key);
        return;
      case KeyFate::kWrite:
        break;
    }
    if (plan_.epoch_from == BatchPlan::kNoEpoch) plan_.epoch_from = plan_.end.ksets;
    plan_.batch.add(key);
    plan_.zero_keys += zeros;
    plan_.zero_bytes += zeros ? key.len : 0;
    if (zeros && (options_.zeros_count || !(key.flags & media::kKeyHole)))
      plan_.costly_zero_bytes += key.len;
  }

  KsetSource& log_;
  const PlanOptions& options_;
  BatchPlan& plan_;
};

void restart(const LogMark& from, BatchPlan* plan) {
  plan->begin = plan->end = from;
  plan->epoch_from = BatchPlan::kNoEpoch;
  plan->batch.clear();
  plan->pieces.clear();
  plan->damaged.clear();
  plan->moves.clear();
  plan->passed_from = BatchPlan::kNoEpoch;
  plan->moved_bytes = plan->copied_bytes = 0;
  plan->zero_keys = plan->zero_bytes = plan->superseded_zero_bytes = 0;
  plan->costly_zero_bytes = 0;
  plan->superseded_keys = plan->superseded_bytes = plan->other_keys = plan->planned_bytes = 0;
}

}  // namespace

bool BatchPlan::writes_to(const Extent& extent) const {
  const auto behind = std::upper_bound(
      pieces.begin(), pieces.end(), extent.off,
      [](uint64_t off, const DirtyBatch::Piece& piece) { return off < piece.extent.end(); });
  return behind != pieces.end() && behind->extent.off < extent.end();
}

Status make_plan(KsetSource& log, const PlanOptions& options, BatchPlan* plan) {
  PCACHE_CHECK(options.from.ksets < options.end_ksets && options.batch_bytes > 0);
  restart(options.from, plan);
  if (auto collected = Planner(log, options, plan).collect(); !collected) return collected;
  plan->pieces = plan->batch.pieces();
  for (const DirtyBatch::Piece& piece : plan->pieces) plan->planned_bytes += piece.extent.len;
  PCACHE_CHECK(plan->planned_bytes <= plan->batch.appended_bytes());
  PCACHE_CHECK(plan->end.ksets <= options.end_ksets);
  return {};
}

}  // namespace pcache
