// SPDX-License-Identifier: GPL-2.0-or-later
// Writeback where another process has the disk: what that one has passed is settled here.
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
  LogKsets log(parts_.pmem, parts_.segments, settled.pos, passed.value());
  BatchPlan plan = std::exchange(spare_, {});
  if (auto made = make_plan(log, options, &plan); !made) return failed(made.error());
  PCACHE_CHECK(!plan.empty() && plan.end.ksets <= options.end_ksets);
  begin(std::move(plan));
  under_way_.front().written = {};  // by the other side
  if (auto settled_all = settle_batches(); !settled_all) {
    forget();
    return failed(settled_all.error());
  }
  return true;
}

}  // namespace pcache
