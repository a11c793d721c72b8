// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/grow.h"

#include "format/codec.h"

namespace pcache {

using namespace media;

Status store_seg_num(Pmem& pmem, DeviceFrame& frame, uint32_t seg_num) {
  Superblock sb;
  if (!pmem.load(&sb, MediaOff{kSuperblockOff}, sizeof sb))
    return make_error(EIO, "superblock at 4096: media error (the only copy)");
  sb = with_segments(sb, seg_num);
  static_assert(offsetof(Superblock, seg_num) % 8 == 0 &&
                sizeof sb - offsetof(Superblock, seg_num) == 8);
  if (!pmem.store(MediaOff{kSuperblockOff + offsetof(Superblock, seg_num)}, &sb.seg_num, 8))
    return make_error(EIO, "superblock at 4096: media error: the cache is as large as before");
  frame.seg_num = seg_num;
  return {};
}

namespace {

class Growing {
 public:
  Growing(Pmem& pmem, DeviceFrame& frame, uint32_t seg_num, const std::function<Status()>& sync)
      : pmem_(pmem), frame_(frame), seg_num_(seg_num), sync_(sync) {
    std::vector<bool> used(seg_num);
    for (const uint32_t physical : frame.chain) used[physical] = true;
    for (uint32_t physical = 0; physical < seg_num; physical++)
      if (!used[physical]) added_.push_back(physical);
  }

  Status run() {
    if (added_.empty()) return {};
    frame_.chain.reserve(frame_.chain.size() + added_.size());  // later nothing may throw
    constexpr Status (Growing::*kSteps[])() = {&Growing::write_heads, &Growing::write_superblock,
                                               &Growing::write_link, &Growing::write_info};
    for (const auto step : kSteps)
      if (auto done = (this->*step)(); !done) return done;
    frame_.chain.insert(frame_.chain.end(), added_.begin(), added_.end());
    return {};
  }

 private:
  static Error bad_media(const char* what, uint32_t physical) {
    return make_error(EIO, "segment %u: media error in its %s: the cache is as large as before",
                      physical, what);
  }

  Status durable(const CodeSite& site = CodeSite::current()) {
    pmem_.fence(site);
    return sync_ ? sync_() : Status();
  }

  Status write_heads() {
    persist_frame(pmem_, frame_.chain);
    for (size_t i = 0; i < added_.size(); i++) {
      const auto next = i + 1 < added_.size() ? std::optional(added_[i + 1]) : std::nullopt;
      if (!format_segment(pmem_, added_[i], next)) return bad_media("head", added_[i]);
    }
    return {};
  }

  Status write_superblock() { return store_seg_num(pmem_, frame_, seg_num_); }

  Status write_link() {
    Replicated<SegmentInfo> info(segment_info_place(frame_.chain.back()));
    SegmentInfo record{};
    record.flags = kSegTypeCacheData << kSegTypeShift;  // neither replica need be valid of the last
    if (const auto there = info.load(pmem_)) record = *there;
    record.flags |= kSegHasNext;
    record.next_seg = added_[0];
    if (!info.write(pmem_, record)) return bad_media("segment_info", frame_.chain.back());
    return {};
  }

  // The record that makes the new segments count. All that it needs is durable before.
  Status write_info() {
    if (auto done = durable(); !done) return done;
    frame_.info.n_segs += static_cast<uint32_t>(added_.size());
    if (!frame_.info_record.write(pmem_, make_cache_info(frame_.info)))
      return make_error(EIO, "cache_info: media error: the cache is as large as before");
    return durable();
  }

  Pmem& pmem_;
  DeviceFrame& frame_;
  const uint32_t seg_num_;
  const std::function<Status()>& sync_;
  std::vector<uint32_t> added_;  // physical, ascending
};

}  // namespace

Status grow_cache(Pmem& pmem, DeviceFrame& frame, uint32_t seg_num,
                  const std::function<Status()>& sync) {
  PCACHE_CHECK(seg_num >= frame.seg_num && seg_num <= segments_of_device(pmem.size_bytes()));
  return Growing(pmem, frame, seg_num, sync).run();
}

}  // namespace pcache
