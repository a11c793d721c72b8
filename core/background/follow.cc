// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback where another process has the disk: what that one has passed is settled here.
#include <algorithm>

#include "background/writeback.h"
#include "base/mutants.h"

namespace pcache {

namespace {

// How many ksets there are from `from` up to `to`; nothing: the log does not lead there.
std::optional<uint64_t> ksets_between(const Parts& parts, CachePos from, CachePos to) {
  LogCursor cursor(parts.pmem, parts.segments, from, {.until = to});
  for (uint64_t ksets = 0;;) {
    const auto item = cursor.next();
    if (!item) return std::nullopt;
    if (item.value().kind == LogItem::Kind::kEnd)
      return item.value().pos == to ? std::optional(ksets) : std::nullopt;
    ksets += item.value().kind == LogItem::Kind::kKeys;
  }
}

}  // namespace

// The other side passes ksets in the order of the log, so dirty_tail on media is where a kset of
// ours begins, at settled() or behind it. What is elsewhere is no dirty_tail of this log, whatever
// its crc. A kset can be seen, and passed, before mark() counts it: then the next step has it.
Result<bool> Writeback::follow(const Size& size) {
  const Bounds bounds{parts_.segments.size(), parts_.logical_bytes, parts_.block_bytes};
  auto passed = parts_.tails.read_dirty_tail(parts_.pmem, bounds);
  if (!passed) return failed(passed.error());
  const LogMark settled = settler_.settled();
  if (passed.value() == settled.pos) return false;
  auto ksets = ksets_between(parts_, settled.pos, passed.value());
  const LogMark head = parts_.log.mark();  // of what the other side has seen
  if (!ksets && hazard(Hazard::kForeignDirtyTail)) {
    passed = head.pos;
    ksets = head.ksets - settled.ksets;
  }
  if (!ksets)
    return failed(make_error(EUCLEAN,
                             "dirty_tail at segment %u:%u: does not follow from %u:%u, which was "
                             "written back before: nothing behind that counts as written back",
                             passed.value().seg.v, passed.value().off, settled.pos.seg.v,
                             settled.pos.off));
  if (*ksets > head.ksets - settled.ksets) return false;
  if (*ksets == 0) return false;  // only a LAST kset is between them
  PlanOptions options;
  options.from = settled;
  options.end_ksets = settled.ksets + *ksets;
  options.batch_bytes = size.bytes;
  options.strict = false;
  // Of what was stated the index has nothing any more.
  if (options.end_ksets <= stated_.load(std::memory_order_relaxed))
    options.fate = [](const media::Key&, uint64_t) { return KeyFate::kSuperseded; };
  LogKsets log(parts_.pmem, parts_.segments, settled.pos, passed.value());
  BatchPlan plan = std::exchange(spare_, {});
  if (auto made = make_plan(log, options, &plan); !made) return failed(made.error());
  PCACHE_CHECK(!plan.empty() && plan.end.ksets <= options.end_ksets);
  plan.copied_bytes = std::min(copied_ahead_, plan.freed_bytes());
  begin(std::move(plan));
  under_way_.front().written = {};  // by the other side
  if (auto settled_all = settle_batches(); !settled_all) {
    forget();
    return failed(settled_all.error());
  }
  return true;
}

// True: there is nothing for the other process to write.
bool Writeback::state_passable(const LogMark& until, const Size& size) {
  if (stated_ksets() > 0) return true;
  const LiveData live = size.live;
  const bool awaited =
      parts_.mode->answers().acks_on_device || (options_.waits && options_.waits->holds());
  if (live == LiveData::kWrite || live == LiveData::kDrain || awaited || parts_.log.failed())
    return false;
  if (live == LiveData::kLeaveAll) return true;
  PlanOptions options;
  options.from = settler_.settled();
  options.end_ksets = std::min(until.ksets, options.from.ksets + media::kMostPassedKsets);
  options.batch_bytes = size.bytes;
  if (options.from.ksets >= options.end_ksets) return false;
  BatchPlan plan = std::exchange(spare_, {});
  const Status made = plan_as(options, until, Pass::kMoved, &plan);
  // What cannot be read the other process meets, and says.
  if (!made || plan.empty()) return false;
  const bool passes = plan.batch.keys().empty() && plan.damaged.empty();
  const bool pays = passes && costs_.moving_pays(plan.live_bytes(), plan.passed_bytes());
  if (plan.passed_bytes() > 0) moving_pays_.store(pays, std::memory_order_relaxed);
  if (live == LiveData::kLeave && pays && !plan.moves.empty()) return true;
  if (!passes || !(pays || live == LiveData::kMoveAnyhow)) return false;
  if (!move(plan)) return false;
  const Status durable = hazard(Hazard::kPassedBeforeMoved) ? Status() : superseded_.make_durable();
  const auto ksets = static_cast<uint32_t>(plan.end.ksets - options.from.ksets);
  if (!durable || !parts_.log.state_passable({plan.end.pos, ksets}, plan.passed_from)) return false;
  stated_of_.reset();
  if (!plan.moves.empty()) stated_of_ = {plan.moves.front().off, plan.moves.front().len};
  stated_.store(plan.end.ksets, std::memory_order_release);
  spare_ = std::move(plan);
  return true;
}

// What was just moved is moved once more, a page of it.
void Writeback::say_what_is_stated() {
  MutexLock lock(mu_);
  if (!parts_.log.has_unstated() || !stated_of_) return;
  Piece piece;
  Index::Snapshot snapshot;
  parts_.index.lookup(*stated_of_, {&piece, 1}, &snapshot);
  if (!parts_.index.still_valid(snapshot) || piece.kind != Piece::Kind::kHit || piece.clean) return;
  media::Key key{};
  key.off = piece.extent.off;
  const uint32_t least_bytes = std::max<uint32_t>(kPageBytes, parts_.block_bytes);
  key.len = static_cast<uint32_t>(std::min<uint64_t>(piece.extent.len, least_bytes));
  key.cache_seg_id = piece.pos.seg.v;
  key.cache_seg_off = piece.pos.off;
  superseded_.forget();
  superseded_.add_moved(key);
  if (mover_.move({&key, 1})) copied_ahead_ += key.len;
  (void)superseded_.make_durable();  // or it is in the next kset
}

}  // namespace pcache
