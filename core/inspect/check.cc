// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/check.h"

#include <algorithm>

#include "inspect/media_scan.h"

namespace pcache {

namespace {

class Checker {
 public:
  Checker(Pmem& pmem, const CheckOptions& options) : pmem_(pmem), options_(options) {}

  CheckReport run() {
    out_.frame = survey_frame(pmem_, options_.ignore_identity, &out_.findings);
    if (out_.frame.device_bytes < media::kMinDeviceBytes) return std::move(out_);
    look();
    if (options_.scan_media &&
        !scan_media(pmem_, out_.frame, out_.log, options_.progress, &out_.findings))
      out_.attaches = false;
    return std::move(out_);
  }

 private:
  void look() {
    compare_with_backing();
    if (out_.frame.other_version) return;
    if (out_.frame.blank) {
      out_.attaches = out_.findings.worst() != Severity::kLost;
      return;
    }
    if (options_.backing)
      out_.logical_bytes = options_.backing->size_bytes;
    else if (out_.frame.identity)
      out_.logical_bytes = out_.frame.identity->backing_bytes;
    const Bounds bounds{static_cast<uint32_t>(out_.frame.frame.chain.size()),
                        out_.logical_bytes ? out_.logical_bytes : UINT64_MAX, options_.block_bytes};
    out_.log = survey_log(pmem_, out_.frame, bounds, &out_.findings, options_.visit);
    out_.dirty_bytes = out_.log.dirty_key_bytes;
    try_recovery();
  }

  void compare_with_backing() {
    if (!options_.backing || !out_.frame.identity || options_.ignore_identity) return;
    const bool grown = has_grown(*out_.frame.identity, *options_.backing);
    if (grown && options_.backing->unique)
      out_.findings.add(Severity::kNote, "backing-grown", "identity block at 0",
                        "the backing device had %llu bytes and has grown to %llu: the next attach "
                        "with role=both uses all of it",
                        static_cast<unsigned long long>(out_.frame.identity->backing_bytes),
                        static_cast<unsigned long long>(options_.backing->size_bytes));
    else if (!compare_identity(*out_.frame.identity, *options_.backing))
      out_.findings.add(Severity::kLost, "other-backing", "identity block at 0",
                        "names backing device \"%s\" of %llu bytes, this one is \"%s\" of %llu: %s",
                        out_.frame.identity->backing,
                        static_cast<unsigned long long>(out_.frame.identity->backing_bytes),
                        options_.backing->text.c_str(),
                        static_cast<unsigned long long>(options_.backing->size_bytes),
                        grown ? "if it is the same one, and has grown: pcachectl identity set"
                              : "give the right one, or --ignore-identity if this is a copy of it");
  }

  // As attach does it, but without the identity check, which is done above.
  void try_recovery() {
    const auto refused = [this](const Error& error) {
      // In most cases the surveys have already said why, in more detail.
      if (out_.findings.count(Severity::kLost) == 0)
        out_.findings.add(Severity::kLost, "refused", "attach", "%s", error.text.c_str());
    };
    if (out_.frame.superblock_error) return;
    auto frame = load_frame(pmem_, Log());
    if (!frame) return refused(frame.error());
    RecoverOptions recovery;
    recovery.device_bytes = out_.logical_bytes;
    if (recovery.device_bytes == 0)
      recovery.device_bytes = std::max<uint64_t>(out_.log.logical_end, kSectorBytes);
    recovery.block_bytes = options_.block_bytes;
    recovery.stripes = 64;
    recovery.threads = recovery_threads(pmem_);
    if (options_.progress)
      recovery.verify_progress = [this](uint64_t done) {
        options_.progress(done, out_.log.key_bytes);
      };
    auto recovered = std::make_unique<Recovered>();
    if (auto done = recover(pmem_, frame.value(), recovery, Log(), recovered.get()); !done)
      return refused(done.error());
    const std::string& copied = recovered->copied_kset;
    if (!copied.empty()) refused({EUCLEAN, copied});
    const bool identified = options_.ignore_identity || !out_.findings.has("identity");
    out_.attaches = identified && !out_.findings.has("other-backing") && copied.empty();
    out_.recovered = std::move(recovered);
    compare_counts();
    note_damaged_data();
    count_dirty();
    if (!frame.value().info.data_crc) read_data();
    if (out_.log.dead_keys > out_.recovered->replayed.dead_dirty_keys)
      out_.findings.add(Severity::kNote, "dead-keys", "log",
                        "%llu keys are of a generation that is gone, as a crash between a "
                        "segment's new generation and key_tail leaves them; their data is on the "
                        "backing device",
                        static_cast<unsigned long long>(out_.log.dead_keys -
                                                        out_.recovered->replayed.dead_dirty_keys));
  }

  // Compares two counts, by code that shares no line.
  void compare_counts() {
    const SegmentCounts counts = out_.recovered->segments->counts();
    const auto log = static_cast<uint32_t>(
        std::count(out_.log.use.begin(), out_.log.use.end(), SegmentUse::kLog));
    const uint32_t data = out_.log.segments_in_use() - log;
    if (counts.log != log || counts.data != data ||
        out_.recovered->replayed.keys != out_.log.keys ||
        out_.recovered->replayed.lost.ranges() != out_.log.lost.ranges() ||
        out_.recovered->replayed.head != out_.log.head)
      out_.findings.add(
          Severity::kLost, "counts", "segments",
          "replay counts %u log and %u data segments and %llu keys up to %s, the survey %u, %u, "
          "%llu, %s: a bug, please report it",
          counts.log, counts.data, static_cast<unsigned long long>(out_.recovered->replayed.keys),
          position_text(out_.recovered->replayed.head).c_str(), log, data,
          static_cast<unsigned long long>(out_.log.keys), position_text(out_.log.head).c_str());
  }

  // Visits all that is cached, piece by piece, in the ranges that keys name.
  void each_hit(const std::function<void(const Piece&)>& visit) const {
    const uint64_t device_end = out_.logical_bytes ? out_.logical_bytes : out_.log.logical_end;
    for (const uint64_t range : out_.log.ranges) {
      const uint64_t end = std::min<uint64_t>((range + 1) * kRangeBytes, device_end);
      for (uint64_t at = range * kRangeBytes; at < end;) {
        Piece pieces[64];
        Index::Snapshot snapshot;
        const size_t n = out_.recovered->index->lookup({at, end - at}, pieces, &snapshot);
        PCACHE_CHECK(n > 0 && pieces[n - 1].extent.end() > at);
        for (size_t i = 0; i < n; i++)
          if (pieces[i].kind == Piece::Kind::kHit) visit(pieces[i]);
        at = pieces[n - 1].extent.end();
      }
    }
  }
  void count_dirty() {
    out_.dirty_bytes = 0;
    each_hit([this](const Piece& piece) {
      if (!piece.clean) out_.dirty_bytes += piece.extent.len;
    });
  }
  // Without a crc the only check of data is whether the media can be read.
  void read_data() {
    const Recovered& recovered = *out_.recovered;
    std::vector<std::byte> chunk(kRangeBytes);
    uint64_t done = 0;
    each_hit([&](const Piece& piece) {
      PCACHE_CHECK(piece.extent.len <= chunk.size());
      done += piece.extent.len;
      if (!piece.zeros &&
          !pmem_.load(chunk.data(), recovered.segments->media(piece.pos), piece.extent.len))
        find_unreadable(piece);
      if (options_.progress) options_.progress(done, recovered.index->mapped_bytes());
    });
  }
  // Finds the unreadable sectors of a piece, by runs.
  void find_unreadable(const Piece& piece) {
    Extent run{piece.extent.off, 0};
    for (uint64_t at = piece.extent.off; at < piece.extent.end(); at += kSectorBytes) {
      const CachePos pos = piece.pos + static_cast<uint32_t>(at - piece.extent.off);
      char sector[kSectorBytes];
      if (!pmem_.load(sector, out_.recovered->segments->media(pos), sizeof sector)) {
        if (run.len == 0) run.off = at;
        run.len += kSectorBytes;
      } else if (run.len > 0) {
        add_unreadable(piece, run);
        run.len = 0;
      }
    }
    if (run.len > 0) add_unreadable(piece, run);
  }
  void add_unreadable(const Piece& piece, const Extent& run) {
    const CachePos pos = piece.pos + static_cast<uint32_t>(run.off - piece.extent.off);
    out_.findings.add(piece.clean ? Severity::kFinding : Severity::kLost,
                      piece.clean ? "unreadable-clean-data" : "bad-dirty-data",
                      "data at segment " + position_text(pos),
                      "range %llu+%llu cannot be read (media error); it is %s",
                      static_cast<unsigned long long>(run.off),
                      static_cast<unsigned long long>(run.len),
                      piece.clean ? "clean and read from the backing device again"
                                  : "dirty: it exists nowhere else, reads of it fail");
  }

  void note_damaged_data() {
    for (const DamagedExtent& damaged : out_.recovered->verified.damaged) {
      const std::string where = "data at segment " + position_text(damaged.pos);
      const auto off = static_cast<unsigned long long>(damaged.extent.off);
      const auto len = static_cast<unsigned long long>(damaged.extent.len);
      if (damaged.clean)
        out_.findings.add(Severity::kFinding, "bad-clean-data", where,
                          "range %llu+%llu fails its crc; it is clean and read from the backing "
                          "device again",
                          off, len);
      else
        out_.findings.add(Severity::kLost, "bad-dirty-data", where,
                          "range %llu+%llu fails its crc and is dirty: it exists nowhere else, "
                          "reads of it fail",
                          off, len);
    }
  }

  Pmem& pmem_;
  const CheckOptions& options_;
  CheckReport out_;
};

}  // namespace

bool CheckReport::trusted_but_for_data() const {
  return attaches &&
         std::all_of(findings.all().begin(), findings.all().end(), [](const Finding& f) {
           return f.severity != Severity::kLost || f.code == "bad-dirty-data";
         });
}

CheckReport check_image(Pmem& pmem, const CheckOptions& options) {
  return Checker(pmem, options).run();
}

}  // namespace pcache
