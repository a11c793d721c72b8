// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cinttypes>
#include <set>

#include "ctl/common.h"
#include "format/codec.h"
#include "segment/persist_record.h"

namespace pcache::ctl {

namespace {

struct Options {
  Image image;
  std::vector<std::string> what;
  std::optional<std::string> range;
};

const std::vector<std::string> kSections = {"superblock", "info",     "tails", "identity",
                                            "persist",    "segments", "ksets", "keys"};
constexpr const char* kUseNames[] = {"free", "log", "data"};
constexpr const char* kReplicaNames[] = {"valid", "torn", "unreadable"};

// Each part of the dump is one JSON object; the text form is "type: name=value ...".
class Printer {
 public:
  explicit Printer(bool json) : json_(json) {}
  void line(const Json& object) const {
    if (json_) return print(object);
    std::string text;
    for (const auto& [name, value] : object.items()) {
      const bool plain =
          value.is_string() && value.get_ref<const std::string&>().find(' ') == std::string::npos;
      const std::string shown = plain ? value.get<std::string>() : value.dump();
      text += name == "type" ? shown + ":" : " " + name + "=" + shown;
    }
    printf("%s\n", text.c_str());
  }

 private:
  const bool json_;
};

Json replicas(const RecordView& record) {
  Json json = Json::array();
  for (int i = 0; i < 2; i++) {
    const ReplicaView& r = record.replica[i];
    const char* state = r.blank ? "unwritten" : kReplicaNames[static_cast<size_t>(r.state)];
    Json replica = {{"at", r.at.v}, {"state", state}};
    if (r.state == ReplicaState::kValid) replica["seq"] = r.seq;
    if (i == record.newest) replica["serves"] = true;
    json.push_back(replica);
  }
  return json;
}

Json tail_json(const char* type, const TailView& tail) {
  return {{"type", type},
          {"position", tail.pos ? position_text(*tail.pos) : "?"},
          {"replicas", replicas(tail.record)}};
}

void print_frame(const Printer& out, const std::set<std::string>& what, const CheckReport& report) {
  const FrameSurvey& frame = report.frame;
  const CacheInfoFields& info = frame.frame.info;
  if (what.contains("superblock"))
    out.line({{"type", "superblock"},
              {"at", media::kSuperblockOff},
              {"flags", frame.superblock.flags},
              {"segments", frame.superblock.seg_num},
              {"state", frame.superblock_error ? frame.superblock_error->text : "valid"}});
  if (what.contains("info"))
    out.line({{"type", "cache_info"},
              {"first_segment", info.first_seg},
              {"segments", info.n_segs},
              {"data_crc", info.data_crc},
              {"mode", static_cast<uint32_t>(info.mode)},
              {"gc_percent", info.gc_percent},
              {"replicas", replicas(frame.info_record)}});
  if (what.contains("tails")) {
    out.line(tail_json("key_tail", frame.key_tail));
    out.line(tail_json("dirty_tail", frame.dirty_tail));
    out.line({{"type", "key_head"}, {"position", position_text(report.log.head)}});
  }
  if (what.contains("identity") && frame.identity)
    out.line({{"type", "identity"},
              {"backing", frame.identity->backing},
              {"backing_bytes", frame.identity->backing_bytes}});
}

// The persist record of any CPU. Attach does not use one that is damaged, or of another CPU or
// memory: it measures again.
void print_persist(const Printer& out, const Pmem& pmem) {
  media::PersistRecord record;
  Json json = {{"type", "persist"}, {"at", media::kPersistOff}};
  if (!pmem.load(&record, MediaOff{media::kPersistOff}, sizeof record)) {
    json["state"] = "unreadable";
    return out.line(json);
  }
  const auto* bytes = reinterpret_cast<const char*>(&record);
  if (std::all_of(bytes, bytes + sizeof record, [](char byte) { return byte == 0; })) return;
  const auto methods = persist_methods();
  if (record.magic != media::kPersistMagic || record.crc != record_crc(record)) {
    json["state"] = "damaged";
  } else if (record.version != media::kPersistVersion || record.n_methods != methods.size() ||
             record.n_methods > std::size(record.ns)) {
    json["state"] = "of another version";
  } else {
    const auto in_use = load_calibration(pmem);
    json["state"] = in_use ? "valid" : "of another CPU or memory";
    json["made_unix_s"] = record.made_unix_s;
    json["bytes"] = record.bytes;
    for (size_t m = 0; m < methods.size(); m++)
      for (size_t c = 0; c < Calibration::kClasses; c++)
        if (record.ns[m][c])
          json["ns"][methods[m].name][std::to_string(Calibration::kSizes[c])] = record.ns[m][c];
    if (in_use) {
      const auto chosen = in_use->chosen();
      for (size_t c = 0; c < Calibration::kClasses; c++)
        json["chosen"][std::to_string(Calibration::kSizes[c])] = chosen[c]->name;
    }
  }
  out.line(json);
}

void print_segments(const Printer& out, const CheckReport& report) {
  if (!report.log.segments) return;
  for (uint32_t i = 0; i < report.frame.segments.size(); i++) {
    const SegmentView& segment = report.frame.segments[i];
    const SegmentUse use = report.log.use[i];
    out.line({{"type", "segment"},
              {"id", i},
              {"physical", segment.physical},
              {"at", segment_off(segment.physical).v},
              {"use", kUseNames[static_cast<size_t>(use)]},
              {"generation", report.log.segments->generation(SegId{i})},
              {"live_keys", report.log.live_keys[i]},
              {"info", replicas(segment.info)},
              {"generations", replicas(segment.generation)}});
  }
}

class KsetPrinter {
 public:
  KsetPrinter(const Printer& out, const std::set<std::string>& what)
      : out_(out), ksets_(what.contains("ksets")), keys_(what.contains("keys")) {}

  void operator()(const SurveyedKset& kset) const {
    const std::string position = position_text(kset.item.pos);
    if (ksets_) {
      Json json = {{"type", "kset"}, {"position", position}};
      if (kset.item.kind == LogItem::Kind::kKeys) {
        json["keys"] = kset.keys.size();
        json["behind_dirty_tail"] = kset.behind_dirty_tail;
        json["same_epoch"] = kset.item.same_epoch;
        if (kset.item.passes) {
          json["passes"] = position_text(kset.item.passes->end);
          json["passes_ksets"] = kset.item.passes->ksets;
        }
        if (kset.item.passes_unchecked) json["passes"] = "not believed";
      } else {
        json[kset.item.kind == LogItem::Kind::kLast ? "last_to" : "lost_to"] =
            position_text(kset.item.next);
      }
      if (kset.item.damage) json["damage"] = kset.item.damage->text;
      out_.line(json);
    }
    for (size_t i = 0; keys_ && i < kset.keys.size(); i++) key(position, i, kset.keys[i]);
  }

 private:
  void key(const std::string& kset, size_t index, const SurveyedKey& k) const {
    const char* state = k.state == KeyState::kInvalid ? "invalid"
                        : k.state == KeyState::kDead  ? "dead"
                        : k.dirty                     ? "dirty"
                                                      : "clean";
    out_.line(
        {{"type", "key"},
         {"kset", kset},
         {"index", index},
         {"off", k.key.off},
         {"len", k.key.len},
         {"state", state},
         {"flags", k.key.flags},
         {"data", std::to_string(k.key.cache_seg_id) + ":" + std::to_string(k.key.cache_seg_off)},
         {"generation", k.key.seg_gen},
         {"data_crc", k.key.data_crc}});
  }

  const Printer& out_;
  const bool ksets_, keys_;
};

// "OFF+LEN".
Result<Extent> parse_range(const std::string& text) {
  const auto wrong = [&] {
    return make_error(EINVAL,
                      "--range %s: expected OFF+LEN in bytes (K, M, G, T, P), multiples of 512",
                      text.c_str());
  };
  const size_t plus = text.find('+');
  if (plus == std::string::npos) return wrong();
  const auto off = size_from_text(text.substr(0, plus));
  const auto len = size_from_text(text.substr(plus + 1));
  if (!off || !len) return wrong();
  const Extent range{static_cast<uint64_t>(*off), static_cast<uint64_t>(*len)};
  if (range.off % kSectorBytes || range.len % kSectorBytes || range.len == 0 ||
      range.off > INT64_MAX - range.len)
    return wrong();
  return range;
}

int print_range(const Printer& out, const Image& image, const std::string& text) {
  const auto range = parse_range(text);
  if (!range) return fail(range.error());
  const auto open = open_image(image);
  if (!open) return fail(open.error());
  const CheckReport& report = open.value().report;
  if (const auto usable = require_attachable(image, report); !usable) return fail(usable.error());
  // Nothing is cached behind the last key, and the device ends at its size.
  if (report.logical_bytes && range.value().end() > report.logical_bytes)
    return fail(make_error(EINVAL, "--range %s: ends behind the device's %" PRIu64 " bytes",
                           text.c_str(), report.logical_bytes));
  const uint64_t indexed = report.logical_bytes ? report.logical_bytes : report.log.logical_end;
  const SegmentTable& segments = *report.recovered->segments;
  for (uint64_t at = range.value().off; at < range.value().end();) {
    const uint64_t end = at < indexed
                             ? std::min(range.value().end(), (range_of(at) + 1) * kRangeBytes)
                             : range.value().end();
    Piece piece;
    piece.extent = {at, end - at};
    if (at < indexed) {
      Index::Snapshot snapshot;
      report.recovered->index->lookup({at, std::min(end, indexed) - at}, {&piece, 1}, &snapshot);
    }
    Json json = {{"type", "range"}, {"off", piece.extent.off}, {"len", piece.extent.len}};
    if (piece.kind == Piece::Kind::kHit) {
      json["state"] = piece.clean ? "clean" : "dirty";
      json["data"] = position_text(piece.pos);
      json["at"] = segments.media(piece.pos).v;
      json["generation"] = segments.generation(piece.pos.seg);
    } else {
      json["state"] = "not cached";
    }
    out.line(json);
    at = piece.extent.end();
  }
  return kDone;
}

int run(const Options& options) {
  const Printer out(options.image.json);
  if (options.range) return print_range(out, options.image, *options.range);
  const std::set<std::string> what =
      options.what.empty() ? std::set<std::string>(kSections.begin(), kSections.end())
                           : std::set<std::string>(options.what.begin(), options.what.end());
  // The frame is printed first, but is only known once the log has been walked.
  const auto open = open_image(options.image);
  if (!open) return fail(open.error());
  const CheckReport& report = open.value().report;
  if (report.frame.blank || report.frame.device_bytes < media::kMinDeviceBytes) {
    const auto usable = require_attachable(options.image, report);
    return fail(usable.error());
  }
  print_frame(out, what, report);
  if (what.contains("persist")) print_persist(out, *open.value().pmem);
  if (what.contains("segments")) print_segments(out, report);
  if (what.contains("ksets") || what.contains("keys")) {
    Findings again;
    const Bounds bounds{static_cast<uint32_t>(report.frame.frame.chain.size()),
                        report.logical_bytes ? report.logical_bytes : UINT64_MAX, kSectorBytes};
    survey_log(*open.value().pmem, report.frame, bounds, &again, KsetPrinter(out, what));
  }
  const auto attachable = require_attachable(options.image, report);
  return attachable ? kDone : fail(attachable.error());
}

}  // namespace

void add_dump(CLI::App& app, int* exit_code) {
  auto* command = app.add_subcommand(
      "dump", "Prints what an image holds, record by record; as far as it can be read");
  command->footer(
      "Examples:\n  pcachectl dump pmem.img --what ksets,keys --json\n  pcachectl dump pmem.img "
      "--range 1M+64K");
  auto options = std::make_shared<Options>();
  add_image(command, &options->image, Backing::kOptional);
  command->add_option("--what", options->what, "parts of it, default all")
      ->delimiter(',')
      ->check(CLI::IsMember(kSections));
  command->add_option("--range", options->range,
                      "instead: where these logical bytes are, OFF+LEN (K, M, G, T, P)");
  command->callback([=] { *exit_code = run(*options); });
}

}  // namespace pcache::ctl
