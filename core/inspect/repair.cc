// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/repair.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

#include "segment/media_crc.h"

namespace pcache {

using namespace media;

namespace {

constexpr uint64_t kMostDataBytes = 64 << 20;  // in memory; the next run repairs the rest

template <typename T>
std::vector<std::byte> bytes_of(const T& value) {
  const auto* p = reinterpret_cast<const std::byte*>(&value);
  return {p, p + sizeof value};
}

bool has_torn_replica(const RecordView& view) {
  for (const ReplicaView& replica : view.replica)
    if (replica.state != ReplicaState::kValid && !replica.blank) return view.newest >= 0;
  return false;
}

class Planner {
 public:
  Planner(const Pmem& pmem, const CheckReport& report, const BackingReader* backing)
      : pmem_(pmem), report_(report), backing_(backing) {}

  RepairPlan run() {
    if (report_.frame.blank) return std::move(plan_);
    plan_.chain = report_.frame.frame.chain;
    if (!report_.attaches) {
      left_over("the image cannot be attached: see check; export --force takes what can be had");
      return std::move(plan_);
    }
    frame_records();
    segment_records();
    torn_tail();
    // If two keys name one place, data that is wrong for one may be right for the other.
    if (report_.trusted_but_for_data()) clean_data();
    for (const Finding& finding : report_.findings.all())
      if (finding.severity == Severity::kLost) left_over(finding.where + ": " + finding.text);
    return std::move(plan_);
  }

 private:
  void left_over(std::string text) { plan_.left.push_back(std::move(text)); }

  // Writes the record as the cache would: to the replica that does not serve.
  template <typename Record>
  void rewrite(const std::string& name, const ReplicaPlace& place, const std::string& why,
               const std::function<void(Record*)>& change = nullptr) {
    Replicated<Record> replicated(place);
    auto record = replicated.load(pmem_);
    if (!record && !change) return;
    Record next = record.value_or(Record{});
    const int slot = record ? 1 - replicated.newest() : place.first_slot;
    next.header = {};
    next.header.seq = static_cast<uint8_t>(record ? replicated.seq() + 1 : 1);
    if (change) change(&next);
    next.header.crc = record_crc(next);
    plan_.steps.push_back({"write " + name + " to its replica " + std::to_string(slot), why,
                           replicated.slot(slot), bytes_of(next)});
  }

  void frame_records() {
    const FrameSurvey& frame = report_.frame;
    constexpr const char* kTorn = "that replica is torn; the other one serves";
    if (report_.findings.has("gc-percent")) {
      const CacheInfo fixed = make_cache_info(frame.frame.info);
      rewrite<CacheInfo>("cache_info", cache_info_place(),
                         "gc_percent is out of range; the one that is used is written",
                         [&](CacheInfo* info) { info->flags = fixed.flags; });
    } else if (has_torn_replica(frame.info_record)) {
      rewrite<CacheInfo>("cache_info", cache_info_place(), kTorn);
    }
    if (has_torn_replica(frame.key_tail.record))
      rewrite<TailPos>("key_tail", key_tail_place(), kTorn);
    // Without its torn replica, the valid dirty_tail could no longer count as old.
    if (report_.findings.has("dirty-tail-lost"))
      rewrite<TailPos>("dirty_tail", dirty_tail_place(),
                       "its newest record is torn and the other stands before key_tail: it is "
                       "put there",
                       [&](TailPos* tail) {
                         tail->cache_seg_id = frame.key_tail.pos->seg.v;
                         tail->seg_off = frame.key_tail.pos->off;
                       });
    else if (has_torn_replica(frame.dirty_tail.record))
      rewrite<TailPos>("dirty_tail", dirty_tail_place(), kTorn);
  }

  void segment_records() {
    PCACHE_CHECK(report_.log.live_keys.size() == report_.frame.segments.size());
    for (uint32_t i = 0; i < report_.frame.segments.size(); i++) {
      const SegmentView& segment = report_.frame.segments[i];
      const std::string name = "segment " + std::to_string(i);
      const auto& guessed = report_.frame.guessed_links;
      if (std::find(guessed.begin(), guessed.end(), segment.physical) != guessed.end()) {
        PCACHE_CHECK(i + 1 < report_.frame.segments.size() &&
                     report_.frame.segments[i + 1].physical == segment.physical + 1);
        rewrite<SegmentInfo>(name + " segment_info", segment_info_place(segment.physical),
                             "the replica that names the next segment is torn",
                             [&](SegmentInfo* info) {
                               info->flags |= kSegHasNext;
                               info->next_seg = segment.physical + 1;
                             });
      } else if (has_torn_replica(segment.info)) {
        rewrite<SegmentInfo>(name + " segment_info", segment_info_place(segment.physical),
                             "that replica is torn; the other one serves");
      }
      const uint64_t proven = report_.log.segments->generation(SegId{i});
      const bool lost = proven != segment.gen || segment.generation.newest < 0;
      if (lost || has_torn_replica(segment.generation))
        rewrite<SegmentGen>(
            name + " generation", segment_gen_place(segment.physical),
            !lost ? std::string("that replica is torn; the other one serves")
            : report_.log.live_keys[i] > 0
                ? "its newest record was lost; the log proves " + std::to_string(proven)
                : "neither replica is valid; no key names it, so any will do: " +
                      std::to_string(proven),
            [proven](SegmentGen* gen) { gen->gen = proven; });
    }
  }

  void torn_tail() {
    if (!report_.log.torn_tail || !report_.log.whole) return;
    PCACHE_CHECK(report_.log.head.off <= kSegDataBytes - sizeof(KsetHeader));
    plan_.steps.push_back({"clear the header at the log's end, " + position_text(report_.log.head),
                           "a torn kset stands there, which was never acknowledged",
                           report_.log.segments->media(report_.log.head), bytes_of(KsetHeader{})});
  }

  // By whole extents, as a crc is for a whole extent.
  void clean_data() {
    if (!report_.findings.has("bad-clean-data")) return;
    if (!backing_) {
      left_over("damaged clean data: give --backing, it is written anew from there");
      return;
    }
    PCACHE_CHECK(report_.recovered != nullptr);
    std::set<CachePos> damaged;
    for (const DamagedExtent& extent : report_.recovered->verified.damaged)
      if (extent.clean) damaged.insert(extent.pos);
    LogCursor cursor(pmem_, *report_.recovered->segments, report_.recovered->tails.key_tail());
    std::set<CachePos> seen;
    for (;;) {
      const auto next = cursor.next();
      if (!next || next.value().kind == LogItem::Kind::kEnd) return;
      for (const Key& key : next.value().keys) {
        const CachePos pos{SegId{key.cache_seg_id}, key.cache_seg_off};
        const auto inside = damaged.lower_bound(pos);
        const bool holds = inside != damaged.end() && inside->seg == pos.seg &&
                           inside->off < pos.off + key.len &&
                           key.seg_gen == report_.recovered->segments->generation(pos.seg);
        if (data_bytes_ > kMostDataBytes)
          return left_over("more damaged clean data: run repair again");
        if (holds && media_crc(pmem_, *report_.recovered->segments, pos, key.len) != key.data_crc &&
            seen.insert(pos).second)
          renew(key, pos);
      }
    }
  }

  void renew(const Key& key, CachePos pos) {
    const std::string range = "range " + std::to_string(key.off) + "+" + std::to_string(key.len);
    std::unique_ptr<void, decltype(&free)> buffer(
        std::aligned_alloc(kMostDirectIoBytes, kRangeBytes + 2 * kMostDirectIoBytes), &free);
    // O_DIRECT needs whole blocks.
    const uint64_t block = std::max<uint64_t>(kPageBytes, backing_->block_bytes());
    const uint64_t from = key.off / block * block;
    const uint64_t ahead = key.off - from;
    const uint64_t len =
        std::min((ahead + key.len + block - 1) / block * block, backing_->size_bytes() - from);
    const int64_t n = backing_->read(from, buffer.get(), len);
    if (n < 0 || static_cast<uint64_t>(n) < ahead + key.len) {
      left_over("damaged clean data of " + range + ": the backing device cannot be read there");
      return;
    }
    const auto* data = static_cast<const std::byte*>(buffer.get()) + ahead;
    if (data_crc32c(data, key.len) != key.data_crc) {
      left_over("damaged clean data of " + range +
                ": the backing device has newer data there; attach drops it by itself, nothing is "
                "lost");
      return;
    }
    data_bytes_ += key.len;
    plan_.steps.push_back({"write the data of " + range + " from the backing device",
                           "it is clean and fails its crc; the backing device's satisfies it",
                           report_.recovered->segments->media(pos),
                           {data, data + key.len}});
  }

  const Pmem& pmem_;
  const CheckReport& report_;
  const BackingReader* const backing_;
  RepairPlan plan_;
  uint64_t data_bytes_ = 0;
};

}  // namespace

RepairPlan plan_repair(const Pmem& pmem, const CheckReport& report, const BackingReader* backing) {
  return Planner(pmem, report, backing).run();
}

Status apply_repair(Pmem& pmem, const RepairPlan& plan, const std::function<Status()>& sync) {
  persist_frame(pmem, plan.chain);
  for (const RepairStep& step : plan.steps) {
    PCACHE_CHECK(step.bytes.size() <= pmem.size_bytes() &&
                 step.at.v <= pmem.size_bytes() - step.bytes.size());
    if (!pmem.store(step.at, step.bytes.data(), step.bytes.size()))
      return make_error(EIO, "media error at %llu: it cannot be written",
                        static_cast<unsigned long long>(step.at.v));
    pmem.fence();
    if (!sync) continue;
    if (auto synced = sync(); !synced) return synced;
  }
  return {};
}

}  // namespace pcache
