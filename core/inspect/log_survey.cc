// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/log_survey.h"

#include <algorithm>
#include <map>

#include "inspect/log_search.h"
#include "inspect/places.h"
#include "keylog/kset_search.h"

namespace pcache {

using media::Key;

namespace {

class LogReader {
 public:
  LogReader(Pmem& pmem, const FrameSurvey& frame, const Bounds& bounds, Findings* findings,
            const std::function<void(const SurveyedKset&)>& visit)
      : pmem_(pmem), frame_(frame), bounds_(bounds), findings_(*findings), visit_(visit) {}

  LogSurvey run() {
    const uint32_t n = static_cast<uint32_t>(frame_.frame.chain.size());
    PCACHE_CHECK(bounds_.n_segs == n && frame_.segments.size() == n);
    out_.segments =
        std::make_unique<SegmentTable>(pmem_, SegmentTable::Options{frame_.frame.chain, 0});
    out_.use.assign(n, SegmentUse::kFree);
    out_.live_keys.assign(n, 0);
    named_end_.assign(n, 0);
    if (n == 0) return std::move(out_);
    // The data of keys before dirty_tail is on the backing device, too, or has a later key.
    const auto start = frame_.key_tail.pos ? frame_.key_tail.pos : frame_.dirty_tail.pos;
    PCACHE_CHECK(!start || start->seg.v < n);
    if (start) {
      out_.start = *start;
      out_.walked = true;
      look_ahead(out_.start);
      dirty_ = !frame_.dirty_tail.pos || !frame_.key_tail.pos || judge_dirty_tail();
      walk(out_.start);
      // The log cannot be followed to dirty_tail, but it is known to go on there.
      if (frame_.dirty_tail.pos && !dirty_tail_met_ && damaged_ &&
          !is_log(*frame_.dirty_tail.pos)) {
        dirty_ = true;
        walk(*frame_.dirty_tail.pos);
      }
    }
    if (!start || cut_short_) search();
    report_lost();
    judge_statements();
    places_.judge(pmem_, *out_.segments, frame_.frame.info.data_crc, &findings_);
    PCACHE_CHECK(out_.dirty_ksets <= out_.ksets && out_.dirty_keys <= out_.keys &&
                 out_.dirty_key_bytes <= out_.key_bytes);
    return std::move(out_);
  }

 private:
  template <typename Body>
  std::optional<Error> each_kset(CachePos from, Body body) {
    LogCursor cursor(pmem_, *out_.segments, from, {.until = std::nullopt, .salvage = true});
    for (;;) {
      at_ = cursor.pos();
      const auto next = cursor.next();
      if (!next) return next.error();
      body(next.value());
      if (next.value().kind == LogItem::Kind::kEnd) return std::nullopt;
    }
  }

  // Finds what keys are judged by: the generations, and whether dirty_tail is in the log.
  void look_ahead(CachePos from) {
    std::vector<uint64_t> youngest(out_.use.size());
    each_kset(from, [&](const LogItem& item) {
      for (const Key& key : item.keys)
        if (validate_key(key, bounds_))
          youngest[key.cache_seg_id] = std::max(youngest[key.cache_seg_id], key.seg_gen);
    });
    for (uint32_t i = 0; i < youngest.size(); i++) {
      const uint64_t gen = out_.segments->generation(SegId{i});
      if (youngest[i] <= gen) continue;
      add_generation(i, gen, youngest[i]);
      out_.segments->raise_generation(SegId{i}, youngest[i]);
    }
    // After the generations, since they decide which ksets are of this life.
    const auto damage = each_kset(from, [&](const LogItem& item) {
      if (item.pos == frame_.dirty_tail.pos) dirty_tail_met_ = true;
      if (item.damage) damaged_ = true;
    });
    if (damage) damaged_ = true;
    if (at_ == frame_.dirty_tail.pos) dirty_tail_met_ = true;
  }

  // A record can only be older than the log if its newer replica was lost.
  void add_generation(uint32_t seg, uint64_t recorded, uint64_t proven) {
    const RecordView& record = frame_.segments[seg].generation;
    const bool lost = std::any_of(record.replica, record.replica + 2, [&](const ReplicaView& r) {
      const bool first_life = record.newest >= 0 && record.replica[record.newest].seq <= 1;
      return r.state != ReplicaState::kValid && !(r.blank && first_life);
    });
    findings_.add(
        lost ? Severity::kFinding : Severity::kLost,
        lost ? "generation-lost" : "generation-impossible", "segment " + std::to_string(seg),
        lost ? "its record says generation %llu, the log holds keys of %llu: the newest "
               "record was lost, the log's is used"
             : "its records say generation %llu, the log holds keys of %llu, and no "
               "record was lost: keys of other generations count as dead",
        static_cast<unsigned long long>(recorded), static_cast<unsigned long long>(proven));
  }

  // True: everything counts as dirty.
  bool judge_dirty_tail() {
    if (dirty_tail_met_) return false;
    const std::string where = "dirty_tail " + position_text(*frame_.dirty_tail.pos);
    const RecordView& record = frame_.dirty_tail.record;
    const bool torn = std::any_of(record.replica, record.replica + 2, [](const ReplicaView& r) {
      return r.state != ReplicaState::kValid && !r.blank;
    });
    const bool before =
        frame_.dirty_tail.pos->seg == out_.start.seg && *frame_.dirty_tail.pos < out_.start;
    if (torn && before && !damaged_) {
      findings_.add(Severity::kFinding, "dirty-tail-lost", where,
                    "its newest record is torn and the other stands before key_tail: everything "
                    "counts as dirty, and is written back again");
      dirty_tail_lost_ = true;
      return true;
    }
    findings_.add(Severity::kLost, "dirty-tail", where, "is no kset between key_tail %s and the %s",
                  position_text(out_.start).c_str(),
                  damaged_ ? "place where the log is damaged" : "log's end");
    return !damaged_;
  }

  void walk(CachePos from) {
    out_.use[from.seg.v] = SegmentUse::kLog;
    const auto damage = each_kset(from, [this](const LogItem& item) { kset(item); });
    out_.head = at_;
    cut_short_ = damage.has_value();
    if (damage) {
      damaged_ = true;
      const bool media = damage->code == EIO;
      findings_.add(Severity::kLost, media ? "log-unreadable" : "log-damaged",
                    "log at " + position_text(at_), "%s", why(*damage, at_));
    }
    out_.whole = !damaged_;
  }

  void kset(const LogItem& item) {
    if (item.pos == frame_.dirty_tail.pos) dirty_ = true;
    if (item.damage) {
      damaged_ = true;
      findings_.add(Severity::kLost, item.damage->code == EIO ? "log-unreadable" : "log-damaged",
                    "log at " + position_text(item.pos), "%s", why(*item.damage, item.pos));
    }
    keys_.clear();
    switch (item.kind) {
      case LogItem::Kind::kEnd:
        if (item.torn) torn_tail(item.pos);
        return;
      case LogItem::Kind::kLast:
      case LogItem::Kind::kLost:
        enter_log_segment(item);
        break;
      case LogItem::Kind::kKeys:
        out_.ksets++;
        out_.dirty_ksets += dirty_;
        places_.begin_kset(item.pos);
        for (size_t i = 0; i < item.keys.size(); i++) keys_.push_back(judge(item, i));
        break;
    }
    if (dirty_) dirty_ksets_before_[item.next] = out_.dirty_ksets;
    unchecked_ += item.passes_unchecked;
    if (item.passes) said_ = {item.pos, *item.passes};
    if (visit_) visit_({item, dirty_, keys_});
  }

  // Of what a front has said need not be written (kKsetPasses), what a backend would not believe.
  void judge_statements() {
    if (unchecked_ > 0)
      findings_.add(
          Severity::kNote, "pass-unchecked", "log",
          "%llu ksets say that nothing in front of a position need be written, and have no "
          "check, as those of an older version: pcached does not believe them",
          static_cast<unsigned long long>(unchecked_));
    if (!said_ || damaged_) return;
    const auto& [at, statement] = *said_;
    const auto ksets = dirty_ksets_before_.find(statement.end);
    if (ksets == dirty_ksets_before_.end() || ksets->second <= statement.ksets) return;
    findings_.add(Severity::kNote, "dirty-tail-set-back", "log at " + position_text(at),
                  "says that %u ksets up to %s need not be written, and from dirty_tail there are "
                  "%llu: dirty_tail was set back; pcached writes all of them",
                  statement.ksets, position_text(statement.end).c_str(),
                  static_cast<unsigned long long>(ksets->second));
  }

  // A cursor's error without its place, which the finding has in a field of its own.
  static const char* why(const Error& error, CachePos at) {
    const std::string place = "log at segment " + position_text(at) + ": ";
    return error.text.c_str() + (error.text.starts_with(place) ? place.size() : 0);
  }

  void torn_tail(CachePos at) {
    std::optional<CachePos> further, of_this_life;
    each_kset_behind_garbage(pmem_, *out_.segments, at, [&](CachePos pos, auto keys) {
      if (!further) further = pos;
      if (!names_new_data(keys)) return true;
      of_this_life = pos;
      return false;
    });
    if (of_this_life) {
      findings_.add(Severity::kLost, "log-cut", "log at " + position_text(at),
                    "what stands here is no kset and no torn one, and at %s follows a valid kset "
                    "of data that is newer than all that the log names before: it is acknowledged "
                    "and lost",
                    position_text(*of_this_life).c_str());
      return;
    }
    if (further) {
      findings_.add(Severity::kFinding, "log-may-be-cut", "log at " + position_text(at),
                    "what stands here is no kset and no torn one, and a valid kset follows at %s. "
                    "It names nothing newer than the log does: left from an earlier life of the "
                    "segment, as a crash of the kernel target may leave it, or else acknowledged "
                    "and lost",
                    position_text(*further).c_str());
      return;
    }
    out_.torn_tail = true;
    findings_.add(Severity::kFinding, "torn-tail", "log at " + position_text(at),
                  "the log ends in a torn kset, as a crash leaves it; it was never acknowledged");
  }

  // Places of a segment are handed out in order, and a segment that no key names is freed, which
  // makes its old keys dead. So the keys of an earlier life of the log that name live segments name
  // places before those that the log names now.
  bool names_new_data(std::span<const Key> keys) const {
    return std::any_of(keys.begin(), keys.end(), [this](const Key& key) {
      PCACHE_DCHECK(key.cache_seg_id < named_end_.size());  // find_kset() has seen to it
      return key.seg_gen > out_.segments->generation(SegId{key.cache_seg_id}) ||
             key.cache_seg_off >= named_end_[key.cache_seg_id];
    });
  }

  void enter_log_segment(const LogItem& item) {
    PCACHE_CHECK(item.next.seg.v < out_.use.size());
    SegmentUse& use = out_.use[item.next.seg.v];
    if (use == SegmentUse::kData)
      findings_.add(Severity::kLost, "log-over-data", "log at " + position_text(item.pos),
                    "leads to segment %u, which holds data of live keys", item.next.seg.v);
    use = SegmentUse::kLog;
  }

  SurveyedKey judge(const LogItem& item, size_t index) {
    const Key& key = item.keys[index];
    SurveyedKey judged{key, KeyState::kLive, dirty_ && !(key.flags & media::kKeyClean)};
    const auto where = [&] {
      return "log at " + position_text(item.pos) + " key " + std::to_string(index);
    };
    Status valid = validate_key(key, bounds_);
    const bool live = valid && key.seg_gen == out_.segments->generation(SegId{key.cache_seg_id});
    if (live && judged.dirty && (key.off | key.len) % bounds_.block_bytes != 0)
      valid = make_error(EINVAL, "dirty range %llu+%u is not in whole blocks of %u bytes",
                         static_cast<unsigned long long>(key.off), key.len, bounds_.block_bytes);
    if (!valid) {
      out_.invalid_keys++;
      judged.state = KeyState::kInvalid;
      findings_.add(Severity::kLost, "bad-key", where(), "%s", valid.error().text.c_str());
      return judged;
    }
    out_.key_bytes += key.len;
    out_.logical_end = std::max(out_.logical_end, key.off + key.len);
    out_.ranges.insert(range_of(key.off));
    const SegId seg{key.cache_seg_id};
    if (key.seg_gen != out_.segments->generation(seg)) {
      out_.dead_keys++;
      judged.state = KeyState::kDead;
      if (judged.dirty && dirty_tail_met_or_lost()) {
        dead_dirty_[seg.v]++;
        out_.lost.add({key.off, key.len});
      }
      return judged;
    }
    if (out_.use[seg.v] == SegmentUse::kLog)
      findings_.add(Severity::kLost, "data-in-log", where(), "data in segment %u, part of the log",
                    seg.v);
    else
      out_.use[seg.v] = SegmentUse::kData;
    out_.live_keys[seg.v]++;
    named_end_[seg.v] = std::max(named_end_[seg.v], uint64_t{key.cache_seg_off} + key.len);
    out_.keys++;
    if (judged.dirty) {
      out_.dirty_keys++;
      out_.dirty_key_bytes += key.len;
      out_.lost.remove({key.off, key.len});
    }
    places_.add(key);
    return judged;
  }

  // If false, ksets before and behind dirty_tail cannot be told apart.
  bool dirty_tail_met_or_lost() const { return dirty_tail_met_ || dirty_tail_lost_; }
  bool is_log(CachePos pos) const { return out_.use[pos.seg.v] == SegmentUse::kLog; }

  // For a log without a known start, or that cannot be followed further: walks what looks like it,
  // in the order in which its segments lead on.
  void search() {
    const std::vector<CachePos> found = search_log(pmem_, *out_.segments, out_.use);
    if (found.empty()) return;
    const bool tails = out_.walked;
    out_.walked = true;
    if (!tails) out_.start = found.front();
    dirty_ = true;  // what is clean is not known
    for (const CachePos from : found) {
      if (is_log(from)) continue;
      findings_.add(Severity::kLost, "log-searched", "log at " + position_text(from),
                    tails
                        ? "ksets stand here that the damaged log does not lead to: taken for its "
                          "rest; some may be older than what was lost"
                        : "found by looking for ksets, since the tails do not tell: taken for the "
                          "log; some of it may have been reclaimed, and be older than what the "
                          "backing device has");
      look_ahead(from);
      walk(from);
    }
  }

  // Reports for each segment how many keys are lost, then the ranges.
  void report_lost() {
    const char* const doubt =
        dirty_tail_lost_
            ? ", if they had not been written back (where dirty_tail stood is not known)"
            : "";
    const bool lost = !out_.lost.empty();
    for (const auto& [seg, keys] : dead_dirty_)
      findings_.add(lost ? Severity::kLost : Severity::kFinding, "dead-dirty-keys",
                    "segment " + std::to_string(seg),
                    "is of generation %llu, and %llu dirty keys behind %s name an earlier one, "
                    "which no crash leaves: %s%s",
                    static_cast<unsigned long long>(out_.segments->generation(SegId{seg})),
                    static_cast<unsigned long long>(keys),
                    dirty_tail_lost_ ? "key_tail" : "dirty_tail",
                    lost ? "their data is nowhere" : "all of that was written again later",
                    lost ? doubt : "");
    for (const auto& [first, end] : out_.lost.ranges())
      findings_.add(Severity::kLost, "lost-range", "range",
                    "%llu+%llu: its newest data is lost; the backing device's is older",
                    static_cast<unsigned long long>(first),
                    static_cast<unsigned long long>(end - first));
  }

  Pmem& pmem_;
  const FrameSurvey& frame_;
  const Bounds bounds_;
  Findings& findings_;
  const std::function<void(const SurveyedKset&)>& visit_;
  LogSurvey out_;
  CachePos at_;
  bool dirty_ = false;                       // dirty_tail has been reached
  bool dirty_tail_met_ = false;              // by look_ahead()
  bool damaged_ = false;                     // a part of the log is lost
  bool dirty_tail_lost_ = false;             // everything counts as dirty
  bool cut_short_ = false;                   // the walk has ended at damage
  std::map<uint32_t, uint64_t> dead_dirty_;  // by segment: keys
  std::vector<uint64_t> named_end_;  // by SegId: end of the last place that a live key names
  std::map<CachePos, uint64_t> dirty_ksets_before_;         // by where a kset may begin
  std::optional<std::pair<CachePos, PassStatement>> said_;  // by the last kset that says so
  uint64_t unchecked_ = 0;
  std::vector<SurveyedKey> keys_;
  Places places_;
};

}  // namespace

uint32_t LogSurvey::segments_in_use() const {
  return static_cast<uint32_t>(
      std::count_if(use.begin(), use.end(), [](SegmentUse u) { return u != SegmentUse::kFree; }));
}

LogSurvey survey_log(Pmem& pmem, const FrameSurvey& frame, const Bounds& bounds, Findings* findings,
                     const std::function<void(const SurveyedKset&)>& visit) {
  return LogReader(pmem, frame, bounds, findings, visit).run();
}

}  // namespace pcache
