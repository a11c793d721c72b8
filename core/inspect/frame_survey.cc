// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/frame_survey.h"

#include <algorithm>
#include <cstring>

#include "segment/identity.h"

namespace pcache {

using namespace media;

namespace {

constexpr const char* kStateNames[] = {"valid", "torn", "unreadable"};

std::string at_text(const char* what, MediaOff at) {
  return std::string(what) + " at " + std::to_string(at.v);
}

// A module's error text without its place, which the finding has in a field of its own.
const char* without_place(std::string_view place, const Error& error) {
  return error.text.c_str() + (error.text.starts_with(place) ? place.size() : 0);
}

template <typename Record>
RecordView view_of(const Pmem& pmem, Replicated<Record>& record, std::optional<Record>* value) {
  *value = record.load(pmem);
  RecordView view;
  for (int i = 0; i < 2; i++) {
    ReplicaView& replica = view.replica[i];
    replica.at = record.slot(i);
    replica.state = record.state(i);
    Record raw;
    if (!pmem.load(&raw, replica.at, sizeof raw)) continue;
    replica.seq = raw.header.seq;
    static constexpr Record kZeros{};
    replica.blank = memcmp(&raw, &kZeros, sizeof raw) == 0;
  }
  if (*value) view.newest = record.newest();
  PCACHE_DCHECK(view.newest < 0 || view.replica[view.newest].state == ReplicaState::kValid);
  Record both[2];
  view.differ = !pmem.load(&both[0], record.slot(0), sizeof(Record)) ||
                !pmem.load(&both[1], record.slot(1), sizeof(Record)) ||
                memcmp(&both[0], &both[1], sizeof(Record)) != 0;
  return view;
}

class FrameReader {
 public:
  FrameReader(const Pmem& pmem, bool ignore_identity, Findings* findings)
      : pmem_(pmem), ignore_identity_(ignore_identity), findings_(*findings) {}

  FrameSurvey run() {
    out_.device_bytes = pmem_.size_bytes();
    if (!superblock()) return std::move(out_);
    cache_info();
    chain();
    segments();
    tail("key_tail", key_tail_place(), &out_.key_tail);
    tail("dirty_tail", dirty_tail_place(), &out_.dirty_tail);
    identity();
    PCACHE_CHECK(out_.segments.size() == out_.frame.chain.size() &&
                 out_.frame.info.n_segs == out_.frame.chain.size());
    return std::move(out_);
  }

 private:
  // Judges one record's replicas, without other records.
  void judge(const RecordView& view, const std::string& name) {
    for (int i = 0; i < 2; i++) {
      const ReplicaView& replica = view.replica[i];
      if (replica.state == ReplicaState::kValid) continue;
      if (view.newest < 0) continue;  // the caller reports that none is valid
      if (replica.blank) {
        // The kernel target's tails may be so for long, and so may all records of Linux 6.18.0 to
        // 6.18.3, which write one replica alone. Zeros that came later cannot be told from that.
        const bool tail = name == "key_tail" || name == "dirty_tail";
        if (!tail && view.replica[view.newest].seq != 1)
          findings_.add(Severity::kNote, "unwritten-replica", at_text(name.c_str(), replica.at),
                        "replica %d is zeros, as one that was never written; replica %d (seq %u) "
                        "serves",
                        i, view.newest, view.replica[view.newest].seq);
        continue;
      }
      findings_.add(Severity::kFinding, "torn-replica", at_text(name.c_str(), replica.at),
                    "replica %d is %s; replica %d (seq %u) serves, and may be the older one", i,
                    kStateNames[static_cast<size_t>(replica.state)], view.newest,
                    view.replica[view.newest].seq);
    }
    const ReplicaView &a = view.replica[0], &b = view.replica[1];
    if (view.newest >= 0 && a.state == b.state && a.seq == b.seq && view.differ)
      findings_.add(Severity::kFinding, "same-sequence", name,
                    "both replicas are valid, differ, and have the sequence number %u: which is "
                    "the newer cannot be told, replica %d is used",
                    a.seq, view.newest);
  }

  bool superblock() {
    if (out_.device_bytes < kMinDeviceBytes) {
      findings_.add(Severity::kLost, "too-small", "cache device",
                    "has %llu bytes, a pcache has %llu (512 MiB) or more",
                    static_cast<unsigned long long>(out_.device_bytes),
                    static_cast<unsigned long long>(kMinDeviceBytes));
      return false;
    }
    const uint32_t fit = segments_of_device(out_.device_bytes);
    const auto probed = probe_device(pmem_);
    if (!pmem_.load(&out_.superblock, MediaOff{kSuperblockOff}, sizeof(Superblock)))
      out_.superblock = {};
    if (probed) {
      out_.frame.seg_num = out_.superblock.seg_num;
      if (probed.value() == DeviceState::kFormatted) return true;
      out_.blank = true;
      identity();
      findings_.add(Severity::kNote, "blank", "superblock at 4096",
                    "is zeros: a blank device, which is formatted when it is first attached");
      unused(fit);
      return false;
    }
    out_.superblock_error = probed.error();
    out_.other_version = is_review_version(pmem_);
    findings_.add(Severity::kLost, out_.other_version ? "other-version" : "superblock",
                  "superblock at 4096", "%s",
                  without_place("superblock at 4096: ", probed.error()));
    out_.frame.seg_num = fit;
    return !out_.other_version;
  }

  // With the words of attach.
  void unused(uint32_t n_segs) {
    out_.unused = unused_text(out_.device_bytes, n_segs);
    if (!out_.unused.empty())
      findings_.add(Severity::kNote, "unused", "cache device", "%s", out_.unused.c_str());
  }

  void cache_info() {
    out_.frame.info_record = Replicated<CacheInfo>(cache_info_place());
    std::optional<CacheInfo> info;
    out_.info_record = view_of(pmem_, out_.frame.info_record, &info);
    judge(out_.info_record, "cache_info");
    out_.frame.info.n_segs = out_.frame.seg_num;
    if (!info) {
      findings_.add(Severity::kLost, "cache-info", "cache_info at 8192 and 12288",
                    "neither replica is valid: not attached, and never formatted again by itself");
      return;
    }
    const auto fields = parse_cache_info(*info, out_.frame.seg_num);
    if (!fields) {
      out_.frame.info.data_crc = info->flags & kInfoDataCrc;
      findings_.add(Severity::kLost, "cache-info", "cache_info", "%s",
                    without_place("cache_info: ", fields.error()));
      return;
    }
    out_.info_known = true;
    out_.frame.info = fields.value();
    unused(out_.frame.info.n_segs);
    if (fields.value().gc_percent_clamped)
      findings_.add(Severity::kFinding, "gc-percent", "cache_info",
                    "gc_percent is %u, at most %u is allowed: %u is used",
                    info->flags >> kInfoGcShift & kInfoGcMask, kGcPercentMax, kGcPercentMax);
  }

  // If the chain is broken, the links passed so far are right; behind the break it goes on as
  // formatting made it, if it did so before.
  void chain() {
    const uint32_t seg_num = out_.frame.seg_num, n_segs = out_.frame.info.n_segs;
    std::vector<uint32_t>& chain = out_.frame.chain;
    std::vector<bool> seen(seg_num);
    uint32_t physical = out_.frame.info.first_seg;
    for (uint32_t i = 0; i < n_segs; i++) {
      if (physical >= seg_num || seen[physical]) {
        findings_.add(Severity::kLost, "segment-chain", "segment chain",
                      physical >= seg_num
                          ? "number %u of %u is segment %u, which does not exist"
                          : "number %u of %u is segment %u, which came before: a cycle",
                      i, n_segs, physical);
        break;
      }
      seen[physical] = true;
      chain.push_back(physical);
      if (i + 1 == n_segs) return;
      bool guessed = false;
      const auto next = next_segment(pmem_, physical, seg_num, &guessed);
      if (!next) {
        findings_.add(Severity::kLost, "segment-chain", "segment chain",
                      "segment %u (number %u of %u): its segment_info does not say what follows",
                      physical, i, n_segs);
        break;
      }
      if (guessed) {
        out_.guessed_links.push_back(physical);
        findings_.add(Severity::kFinding, "segment-link", "segment " + std::to_string(i),
                      "the replica of its segment_info that names the next segment is torn; that "
                      "is taken to be %u, as formatting made it",
                      *next);
      }
      physical = *next;
    }
    bool ascending = true;
    for (uint32_t i = 0; i < chain.size(); i++)
      ascending = ascending && chain[i] == out_.frame.info.first_seg + i;
    while (ascending && chain.size() < n_segs && out_.frame.info.first_seg + chain.size() < seg_num)
      chain.push_back(out_.frame.info.first_seg + static_cast<uint32_t>(chain.size()));
    out_.frame.info.n_segs = static_cast<uint32_t>(chain.size());
  }

  void segments() {
    const uint32_t n = static_cast<uint32_t>(out_.frame.chain.size());
    for (uint32_t i = 0; i < n; i++) {
      SegmentView view;
      view.physical = out_.frame.chain[i];
      const std::string name = "segment " + std::to_string(i);
      Replicated<SegmentInfo> info(segment_info_place(view.physical));
      std::optional<SegmentInfo> info_record;
      view.info = view_of(pmem_, info, &info_record);
      judge(view.info, name + " segment_info");
      if (info_record) {
        view.info_record = *info_record;
      } else if (i + 1 == n) {  // the chain has reported the others
        findings_.add(Severity::kFinding, "segment-info", name,
                      "neither replica of its segment_info is valid; it is the last one, and "
                      "nothing in it is needed");
      }
      Replicated<SegmentGen> gen(segment_gen_place(view.physical));
      std::optional<SegmentGen> gen_record;
      view.generation = view_of(pmem_, gen, &gen_record);
      judge(view.generation, name + " generation");
      if (gen_record)
        view.gen = gen_record->gen;
      else
        findings_.add(Severity::kFinding, "generation", name,
                      "neither replica of its generation is valid; what the log says of it, or "
                      "else 0, is used");
      out_.segments.push_back(view);
    }
  }

  void tail(const char* name, const ReplicaPlace& place, TailView* out) {
    Replicated<TailPos> record(place);
    std::optional<TailPos> raw;
    out->record = view_of(pmem_, record, &raw);
    judge(out->record, name);
    if (!raw) {
      findings_.add(Severity::kLost, "tail", at_text(name, record.slot(0)),
                    "neither replica is valid: where the log stands is not known");
      return;
    }
    const auto pos = validate_position(*raw, {out_.frame.info.n_segs, UINT64_MAX});
    if (pos)
      out->pos = pos.value();
    else
      findings_.add(Severity::kLost, "tail", at_text(name, record.slot(record.newest())), "%s",
                    pos.error().text.c_str());
  }

  void identity() {
    auto identity = load_identity(pmem_);
    if (!identity)
      findings_.add(ignore_identity_ ? Severity::kFinding : Severity::kLost, "identity",
                    "identity block at 0",
                    "%s; pcachectl identity set writes it anew, --ignore-identity goes on without",
                    identity.error().text.c_str());
    else if (!identity.value() && !out_.blank)
      findings_.add(Severity::kNote, "no-identity", "identity block at 0",
                    "there is none, as in an image that only the kernel target has used");
    if (identity) out_.identity = identity.value();
  }

  const Pmem& pmem_;
  const bool ignore_identity_;
  Findings& findings_;
  FrameSurvey out_;
};

}  // namespace

FrameSurvey survey_frame(const Pmem& pmem, bool ignore_identity, Findings* findings) {
  return FrameReader(pmem, ignore_identity, findings).run();
}

std::string position_text(CachePos pos) {
  return std::to_string(pos.seg.v) + ":" + std::to_string(pos.off);
}

}  // namespace pcache
