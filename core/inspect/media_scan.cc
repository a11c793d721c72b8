// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/media_scan.h"

#include <algorithm>

namespace pcache {

using namespace media;

namespace {

constexpr uint64_t kStepBytes = 256 << 10;

class Scanner {
 public:
  Scanner(const Pmem& pmem, const FrameSurvey& frame, const LogSurvey& log, Findings* findings)
      : pmem_(pmem), frame_(frame), log_(log), findings_(*findings), seg_ids_(frame.frame.seg_num) {
    for (uint32_t i = 0; i < frame.frame.chain.size(); i++) {
      PCACHE_CHECK(frame.frame.chain[i] < seg_ids_.size());
      seg_ids_[frame.frame.chain[i]] = SegId{i};
    }
    PCACHE_CHECK(log.live_keys.size() == log.use.size());
  }

  bool run(const std::function<void(uint64_t, uint64_t)>& progress) {
    std::vector<std::byte> buffer(kStepBytes);
    const uint64_t all = pmem_.size_bytes();
    for (uint64_t at = pmem_.next_data(0); at < all; at = pmem_.next_data(at)) {
      at = at / kPageBytes * kPageBytes;
      const uint64_t len = std::min(kStepBytes, all - at);
      if (!pmem_.load(buffer.data(), MediaOff{at}, len))
        for (uint64_t page = at; page < at + len; page += kPageBytes)
          if (!pmem_.load(buffer.data(), MediaOff{page},
                          std::min<uint64_t>(kPageBytes, all - page)))
            add(page);
      at += len;
      if (progress) progress(at, all);
    }
    finish_run();
    return formattable_;
  }

 private:
  struct Place {
    std::string what;     // is there
    bool format = false;  // a format stores there
    bool used = true;     // the cache uses it, now or later
  };

  Place place_of(uint64_t off) const {
    if (off < kSuperblockOff) return {"the identity block and the persist record", true};
    if (off < kCacheInfoOff) return {"the superblock (the only copy)", true};
    if (off < kCacheCtrlOff)
      return {off < kCacheInfoOff + kCacheInfoStride ? "cache_info, replica 0"
                                                     : "cache_info, replica 1",
              true};
    if (off < kSegmentsOff) return {"key_tail and dirty_tail", true};
    const uint64_t physical = (off - kSegmentsOff) / kSegmentBytes;
    if (physical >= segments_of_device(pmem_.size_bytes()))
      return {"nothing: it is behind the last segment", false, false};
    return in_segment(physical, (off - kSegmentsOff) % kSegmentBytes);
  }

  Place in_segment(uint64_t physical, uint64_t off) const {
    const bool known = physical < seg_ids_.size() && seg_ids_[physical];
    // Without a chain every segment may be one of the cache.
    if (!known && !frame_.blank && !frame_.frame.chain.empty())
      return {"nothing: it is behind the cache's last segment", false, false};
    const std::string name = known ? "segment " + std::to_string(seg_ids_[physical]->v)
                                   : "segment " + std::to_string(physical) + " of the device";
    if (off < kSegInfoStride) return {name + "'s segment_info, replica 0", true};
    if (off < kSegCtrlOff) return {name + "'s segment_info, replica 1", true};
    if (off < kSegDataOff) return {name + "'s generation, both replicas", true};
    const bool first = off < kSegDataOff + kPageBytes;
    if (!known || seg_ids_[physical]->v >= log_.use.size()) return {name + "'s data area", first};
    const SegId seg = *seg_ids_[physical];
    switch (log_.use[seg.v]) {
      case SegmentUse::kFree:
      case SegmentUse::kRetired:  // only in a running cache
        return {name + ", which is free", first};
      case SegmentUse::kData:
        return {
            name + ", which holds data of " + std::to_string(log_.live_keys[seg.v]) + " live keys",
            first};
      case SegmentUse::kLog:
        break;
    }
    const bool behind = seg == log_.head.seg && off - kSegDataOff > log_.head.off;
    return {name + (behind ? ", behind the log's end" : ", a part of the log"), first};
  }

  void add(uint64_t page) {
    PCACHE_DCHECK(page % kPageBytes == 0 && page >= run_ + run_bytes_);
    Place place = place_of(page);
    if (run_bytes_ > 0 && run_ + run_bytes_ == page && place.what == place_.what) {
      run_bytes_ += kPageBytes;
      return;
    }
    finish_run();
    run_ = page;
    run_bytes_ = kPageBytes;
    place_ = std::move(place);
  }

  void finish_run() {
    if (run_bytes_ == 0) return;
    const bool cannot_format = frame_.blank && place_.format;
    formattable_ = formattable_ && !cannot_format;
    findings_.add(cannot_format  ? Severity::kLost
                  : !place_.used ? Severity::kNote
                                 : Severity::kFinding,
                  "unreadable-page", "cache device at " + std::to_string(run_),
                  "%llu bytes cannot be read (media error); here is %s%s",
                  static_cast<unsigned long long>(run_bytes_), place_.what.c_str(),
                  cannot_format ? ": attach would format it, and cannot store here"
                  : place_.used ? ": what is stored here later is lost or refused"
                                : "");
    run_bytes_ = 0;
  }

  const Pmem& pmem_;
  const FrameSurvey& frame_;
  const LogSurvey& log_;
  Findings& findings_;
  std::vector<std::optional<SegId>> seg_ids_;  // by physical segment
  bool formattable_ = true;
  uint64_t run_ = 0, run_bytes_ = 0;  // the run so far
  Place place_;                       // of the run
};

}  // namespace

bool scan_media(const Pmem& pmem, const FrameSurvey& frame, const LogSurvey& log,
                const std::function<void(uint64_t done, uint64_t all)>& progress,
                Findings* findings) {
  return Scanner(pmem, frame, log, findings).run(progress);
}

}  // namespace pcache
