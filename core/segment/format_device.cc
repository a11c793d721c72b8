// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/format_device.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/mutants.h"
#include "format/other_version.h"
#include "segment/identity.h"

namespace pcache {

using namespace media;

namespace {

[[nodiscard]] bool store_zeros(Pmem& pmem, MediaOff from, uint64_t len,
                               const CodeSite& site = CodeSite::current()) {
  static constexpr char kZeros[4096] = {};
  while (len > 0) {
    const uint64_t n = std::min<uint64_t>(len, sizeof kZeros);
    if (!pmem.store(from, kZeros, n, site)) return false;
    from = from + n;
    len -= n;
  }
  return true;
}

}  // namespace

bool format_segment(Pmem& pmem, uint32_t physical, std::optional<uint32_t> next) {
  if (!store_zeros(pmem, segment_off(physical), kSegDataOff + sizeof(KsetHeader))) return false;
  pmem.fence();  // before other stores to the same places
  Replicated<SegmentInfo> info(segment_info_place(physical));
  SegmentInfo record{};
  record.flags = kSegTypeCacheData << kSegTypeShift;
  // The kernel target stores the info again when it links the next segment, so all but the last end
  // with the second record in slot 0.
  bool stored = info.write(pmem, record);
  if (next) {
    record.flags |= kSegHasNext;
    record.next_seg = *next;
    stored &= info.write(pmem, record);
  }
  Replicated<SegmentGen> gen(segment_gen_place(physical));
  stored &= gen.write(pmem, SegmentGen{});
  return stored;
}

// Behind the first two stores the magic of an old superblock is gone: the device is no cache then.
Status give_up_format(const Pmem& pmem) {
  const auto bad = pmem.first_bad_page(MediaOff{0}, pmem.size_bytes());
  return make_error(EIO,
                    "media error in the page at %llu: the cache cannot be formatted; have the page "
                    "cleared, or use another device",
                    static_cast<unsigned long long>(bad.value_or(MediaOff{0}).v));
}

CacheInfoFields fresh_cache_info(uint32_t seg_num, const FormatOptions& options) {
  CacheInfoFields fields;
  fields.n_segs = seg_num;
  fields.data_crc = options.data_crc;
  fields.gc_percent = options.gc_percent;
  fields.mode = options.mode;
  fields.init_done = true;
  return fields;
}

Status format_device(Pmem& pmem, const FormatOptions& options) {
  const uint32_t seg_num = segments_of_device(pmem.size_bytes());
  PCACHE_CHECK(seg_num > 0);
  // From here on a probe knows half of a format by the mark, and does not take it for a cache that
  // has lost the other half.
  if (!pmem.store(MediaOff{kFormatMarkOff}, &kFormatMark, sizeof kFormatMark))
    return give_up_format(pmem);
  pmem.fence();
  // The old superblock goes before any other piece of an old cache: with half-wiped tails it would
  // attach, and write old data back.
  if (!store_zeros(pmem, MediaOff{kSuperblockOff + offsetof(Superblock, magic)},
                   sizeof(Superblock::magic)))
    return give_up_format(pmem);
  pmem.fence();
  bool stored = store_zeros(pmem, MediaOff{kSuperblockOff}, kFormatMarkOff - kSuperblockOff);
  const uint64_t behind_mark = kFormatMarkOff + sizeof kFormatMark;
  stored &= store_zeros(pmem, MediaOff{behind_mark}, kSegmentsOff - behind_mark);
  for (uint32_t i = 0; i < seg_num && stored; i++)
    stored = format_segment(pmem, i, i + 1 < seg_num ? std::optional(i + 1) : std::nullopt);
  if (!stored) return give_up_format(pmem);

  Replicated<TailPos> key_tail(key_tail_place());
  stored &= key_tail.write(pmem, TailPos{});
  Replicated<TailPos> dirty_tail(dirty_tail_place());
  stored &= dirty_tail.write(pmem, TailPos{});

  Replicated<CacheInfo> info(cache_info_place());
  stored &= info.write(pmem, make_cache_info(fresh_cache_info(seg_num, options)));

  // The magic last, in one 8-byte word: after a crash before it the mark says that this is blank.
  const Superblock sb = make_superblock(seg_num);
  Superblock without_magic = sb;
  without_magic.magic = 0;
  stored &= pmem.store(MediaOff{kSuperblockOff}, &without_magic, sizeof without_magic);
  if (!stored) return give_up_format(pmem);
  pmem.fence();
  if (!pmem.store(MediaOff{kSuperblockOff + offsetof(Superblock, magic)}, &sb.magic,
                  sizeof sb.magic))
    return give_up_format(pmem);
  pmem.fence();
  if (!store_zeros(pmem, MediaOff{kFormatMarkOff}, sizeof kFormatMark)) return give_up_format(pmem);
  pmem.fence();
  return {};
}

void clear_format_mark(Pmem& pmem) {
  uint64_t mark = 0;
  if (!pmem.load(&mark, MediaOff{kFormatMarkOff}, sizeof mark) || mark != kFormatMark) return;
  // If the mark cannot be cleared it stays, and nothing looks at it: the superblock is whole.
  (void)store_zeros(pmem, MediaOff{kFormatMarkOff}, sizeof kFormatMark);
  pmem.fence();
}

DeviceFrame frame_of_blank(uint64_t device_bytes, const FormatOptions& options) {
  DeviceFrame frame;
  frame.seg_num = segments_of_device(device_bytes);
  frame.info = fresh_cache_info(frame.seg_num, options);
  frame.info_record = Replicated<CacheInfo>(cache_info_place());
  frame.chain.resize(frame.seg_num);
  std::iota(frame.chain.begin(), frame.chain.end(), 0u);
  return frame;
}

std::string unused_text(uint64_t device_bytes, uint32_t n_segs) {
  const uint32_t most = segments_of_device(device_bytes);
  if (n_segs == 0 || most == 0) return {};
  const uint64_t left = device_bytes - std::min(device_bytes, bytes_of_segments(n_segs));
  if (left < kSegmentBytes) return {};
  const std::string bytes = std::to_string(left) + " bytes of the device are not used: ";
  if (n_segs == kMaxSegments)
    return bytes + "a pcache has " + std::to_string(kMaxSegments) +
           " segments of 16 MiB (16 TiB) at most";
  return bytes + "the cache was made with " + std::to_string(n_segs) + " segments, " +
         std::to_string(most) + " have room; pcachectl resize makes it larger";
}

namespace {

bool all_zero(const void* data, size_t n) {
  auto* p = static_cast<const char*>(data);
  return std::all_of(p, p + n, [](char c) { return c == 0; });
}

// What the user can do, in every message about a device that is not blank.
constexpr const char* kGiveUp =
    "pcachectl export --force looks for its data; to give that up zero the first 20 KiB, or use "
    "pcachectl format --force";

Status refuse_log_with_data(const Pmem& pmem) {
  Replicated<TailPos> key_tail(key_tail_place());
  const auto tail = key_tail.load(pmem);
  KsetHeader header{};
  if (!tail || tail->cache_seg_id >= segments_of_device(pmem.size_bytes()) ||
      tail->seg_off > kSegDataBytes - sizeof header)
    return {};
  if (!pmem.load(&header, segment_data_off(tail->cache_seg_id) + tail->seg_off, sizeof header))
    return make_error(EIO, "media error in the log at segment %u", tail->cache_seg_id);
  if (header.magic != kKsetMagic) return {};
  return make_error(EUCLEAN,
                    "superblock at 4096: magic is 0 but there is a log with data at segment %u:%u: "
                    "damaged, not blank; %s",
                    tail->cache_seg_id, tail->seg_off, kGiveUp);
}

// The error for a device without a superblock whose first 20 KiB are not all zeros. If only the
// superblock was lost no data is; a format would lose it (hazard formatted-again).
Error not_blank(const Pmem& pmem) {
  if (auto log = refuse_log_with_data(pmem); !log) return log.error();
  struct Part {
    const char* name;
    uint64_t off;
  };
  constexpr Part kParts[] = {{"cache_info at 8192", kCacheInfoOff},
                             {"cache_info at 12288", kCacheInfoOff + kCacheInfoStride},
                             {"cache_ctrl at 16384", kCacheCtrlOff},
                             {"superblock's page at 4096", kSuperblockOff}};
  char page[kCacheInfoStride];
  for (const Part& part : kParts)
    if (pmem.load(page, MediaOff{part.off}, sizeof page) && !all_zero(page, sizeof page))
      return make_error(EUCLEAN,
                        "superblock at 4096: magic is 0 but the %s is not zeros: damaged, not "
                        "blank; %s",
                        part.name, kGiveUp);
  if (first_page(pmem) == FirstPage::kOurs)
    return make_error(EUCLEAN,
                      "superblock at 4096: magic is 0 but there is an identity block at 0: "
                      "damaged, not blank; %s",
                      kGiveUp);
  return make_error(EUCLEAN,
                    "the first 4096 bytes hold something else (a file system or partition "
                    "table?) and there is no superblock: not a cache device; zero its first 20 KiB "
                    "to use it");
}

Error too_small(uint64_t device_bytes, const Superblock& sb) {
  if (sb.magic == kSuperblockMagic && sb.crc == record_crc(sb))
    return make_error(EINVAL,
                      "cache device has %llu bytes, and was formatted with %u segments, which need "
                      "%llu: it was cut",
                      static_cast<unsigned long long>(device_bytes), sb.seg_num,
                      static_cast<unsigned long long>(bytes_of_segments(sb.seg_num)));
  return make_error(EINVAL, "cache device has %llu bytes, at least %llu (512 MiB) are needed",
                    static_cast<unsigned long long>(device_bytes),
                    static_cast<unsigned long long>(kMinDeviceBytes));
}

}  // namespace

bool is_review_version(const Pmem& pmem) {
  std::byte page[kSuperblockPageBytes];
  return pmem.load(page, MediaOff{kSuperblockOff}, sizeof page) && is_review_version(page);
}

Result<DeviceState> probe_device(const Pmem& pmem) {
  Superblock sb{};
  uint64_t mark = 0;
  const uint64_t size = pmem.size_bytes();
  if (size >= kCacheInfoOff && (!pmem.load(&sb, MediaOff{kSuperblockOff}, sizeof sb) ||
                                !pmem.load(&mark, MediaOff{kFormatMarkOff}, sizeof mark)))
    return make_error(EIO, "superblock at 4096: media error (the only copy)");
  // Only a blank device is ever extended.
  const uint64_t counts = sb.magic == 0 ? pmem.size_when_ready() : size;
  if (counts < kMinDeviceBytes) return too_small(counts, sb);
  auto state = validate_superblock(sb, size);
  if (!state)
    return is_review_version(pmem) ? make_error(EUCLEAN, "%s", kReviewVersion) : state.error();
  if (hazard(Hazard::kFormattedAgain) && !Replicated<CacheInfo>(cache_info_place()).load(pmem))
    return DeviceState::kBlank;
  if (state.value() == SuperblockState::kValid) return DeviceState::kFormatted;
  if (mark == kFormatMark) return DeviceState::kBlank;
  const auto zeros = pmem.starts_with_zeros(kSegmentsOff);
  if (!zeros) return zeros.error();
  if (zeros.value()) return DeviceState::kBlank;
  if (size < kSegmentsOff)
    return make_error(EUCLEAN, "cache device has %llu bytes that are not zeros: not a blank one",
                      static_cast<unsigned long long>(size));
  return not_blank(pmem);
}

std::optional<uint32_t> next_segment(const Pmem& pmem, uint32_t physical, uint32_t seg_num,
                                     bool* guessed) {
  *guessed = false;
  Replicated<SegmentInfo> record(segment_info_place(physical));
  const auto info = record.load(pmem);
  if (!info) return std::nullopt;
  if (info->flags & kSegHasNext) return info->next_seg;
  if (!record.has_torn(pmem) || physical + 1 >= seg_num) return std::nullopt;
  for (uint32_t other = 0; other < seg_num; other++) {
    Replicated<SegmentInfo> replicated(segment_info_place(other));
    const auto known = replicated.load(pmem);
    if (known && known->flags & kSegHasNext && known->next_seg != other + 1) return std::nullopt;
  }
  *guessed = true;
  return physical + 1;
}

Result<DeviceFrame> load_frame(const Pmem& pmem, const Log& log) {
  Superblock sb;
  if (!pmem.load(&sb, MediaOff{kSuperblockOff}, sizeof sb))
    return make_error(EIO, "superblock at 4096: media error (the only copy)");
  DeviceFrame frame;
  frame.info_record = Replicated<CacheInfo>(cache_info_place());
  const auto info = frame.info_record.load(pmem);
  if (!info)
    return make_error(
        EUCLEAN,
        "cache_info at 8192 and 12288: neither replica is valid under a valid superblock; "
        "not formatted again, as that would destroy the cache's data");
  auto fields = parse_cache_info(*info, sb.seg_num);
  if (!fields) return fields.error();
  frame.seg_num = sb.seg_num;
  frame.sb_flags = sb.flags;
  frame.info = fields.value();
  if (frame.info.gc_percent_clamped)
    log.print(LogLevel::kWarning, "cache_info: gc_percent is out of range, %u is used instead",
              frame.info.gc_percent);

  std::vector<bool> seen(sb.seg_num);
  uint32_t physical = frame.info.first_seg;
  for (uint32_t i = 0; i < frame.info.n_segs; i++) {
    if (seen[physical])
      return make_error(EUCLEAN,
                        "segment chain: segment %u comes again as number %u of %u: a cycle",
                        physical, i, frame.info.n_segs);
    seen[physical] = true;
    frame.chain.push_back(physical);
    if (i + 1 == frame.info.n_segs) break;
    bool guessed = false;
    const auto next = next_segment(pmem, physical, sb.seg_num, &guessed);
    if (!next)
      return make_error(EUCLEAN,
                        "segment chain: segment %u (number %u of %u): its segment_info does not "
                        "say what follows",
                        physical, i, frame.info.n_segs);
    if (*next >= sb.seg_num)
      return make_error(EUCLEAN,
                        "segment chain: segment %u (number %u of %u) leads to segment %u of %u",
                        physical, i, frame.info.n_segs, *next, sb.seg_num);
    if (guessed)
      log.print(LogLevel::kWarning,
                "segment %u: the newest replica of its segment_info is torn; the next segment is "
                "taken to be %u, as formatting made it",
                physical, *next);
    physical = *next;
  }
  return frame;
}

Status write_cache_info(Pmem& pmem, DeviceFrame& frame) {
  Replicated<CacheInfo>& record = frame.info_record;
  const MediaOff at = record.slot(1 - record.newest());
  if (!record.write(pmem, make_cache_info(frame.info)))
    return make_error(EIO,
                      "cache_info: media error in its replica at %llu: what it says "
                      "(gc_percent, cache_mode) cannot be changed any more",
                      static_cast<unsigned long long>(at.v));
  pmem.fence();
  return {};
}

void flush_records(const Pmem& pmem, const CodeSite& site) {
  for (uint64_t page = 0; page < media::kSegmentsOff; page += kPageBytes)
    if (pmem.readable(MediaOff{page}, kPageBytes))
      pmem.flush_seen(MediaOff{page}, kPageBytes, site);
}

void persist_frame(Pmem& pmem, std::span<const uint32_t> chain) {
  flush_records(pmem);
  static_assert(sizeof(SegmentInfo) == sizeof(SegmentGen));
  const auto flush_record = [&pmem](MediaOff at) {
    if (pmem.readable(at, sizeof(SegmentInfo))) pmem.flush_seen(at, sizeof(SegmentInfo));
  };
  for (const uint32_t physical : chain)
    for (const ReplicaPlace& place : {segment_info_place(physical), segment_gen_place(physical)}) {
      flush_record(place.base);
      flush_record(place.base + place.stride);
    }
  pmem.fence();
}

Status change_cache_info(Pmem& pmem, DeviceFrame& frame) {
  persist_frame(pmem, frame.chain);
  return write_cache_info(pmem, frame);
}

}  // namespace pcache
