// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/format_device.h"

#include <algorithm>
#include <cstring>

#include "base/mutants.h"

namespace pcache {

using namespace media;

namespace {

void store_zeros(Pmem& pmem, MediaOff from, uint64_t len,
                 const CodeSite& site = CodeSite::current()) {
  static constexpr char kZeros[4096] = {};
  while (len > 0) {
    const uint64_t n = std::min<uint64_t>(len, sizeof kZeros);
    pmem.store(from, kZeros, n, site);
    from = from + n;
    len -= n;
  }
}

// The kernel writes a segment's info when it takes the segment and again when the next one is
// linked, so all but the last end with the second record in slot 0.
void format_segment(Pmem& pmem, uint32_t physical, uint32_t seg_num) {
  store_zeros(pmem, segment_off(physical), kSegDataOff + sizeof(KsetHeader));
  pmem.fence();  // before other stores to the same places
  Replicated<SegmentInfo> info(segment_info_place(physical));
  SegmentInfo record{};
  record.flags = kSegTypeCacheData << kSegTypeShift;
  info.write(pmem, record);
  if (physical + 1 < seg_num) {
    record.flags |= kSegHasNext;
    record.next_seg = physical + 1;
    info.write(pmem, record);
  }
  Replicated<SegmentGen> gen(segment_gen_place(physical));
  gen.write(pmem, SegmentGen{});
}

}  // namespace

void format_device(Pmem& pmem, const FormatOptions& options) {
  const uint32_t seg_num = segments_of_device(pmem.size_bytes());
  PCACHE_CHECK(seg_num > 0);
  // What may be there is no cache any more before the first piece of it goes: an old superblock
  // over half-wiped tails would attach, and write old data back.
  store_zeros(pmem, MediaOff{kSuperblockOff + offsetof(Superblock, magic)},
              sizeof(Superblock::magic));
  pmem.fence();
  store_zeros(pmem, MediaOff{kSuperblockOff}, kSegmentsOff - kSuperblockOff);
  for (uint32_t i = 0; i < seg_num; i++) format_segment(pmem, i, seg_num);

  Replicated<TailPos> key_tail(key_tail_place());
  key_tail.write(pmem, TailPos{});
  Replicated<TailPos> dirty_tail(dirty_tail_place());
  dirty_tail.write(pmem, TailPos{});

  CacheInfoFields fields;
  fields.n_segs = seg_num;
  fields.data_crc = options.data_crc;
  fields.gc_percent = options.gc_percent;
  fields.init_done = true;
  Replicated<CacheInfo> info(cache_info_place());
  info.write(pmem, make_cache_info(fields));

  // The magic last, in one 8-byte word: torn before it, the device is still blank.
  const Superblock sb = make_superblock(seg_num);
  Superblock without_magic = sb;
  without_magic.magic = 0;
  pmem.store(MediaOff{kSuperblockOff}, &without_magic, sizeof without_magic);
  pmem.fence();
  pmem.store(MediaOff{kSuperblockOff + offsetof(Superblock, magic)}, &sb.magic, sizeof sb.magic);
  pmem.fence();
}

namespace {

bool all_zero(const void* data, size_t n) {
  auto* p = static_cast<const char*>(data);
  return std::all_of(p, p + n, [](char c) { return c == 0; });
}

// A superblock without magic over a log with data is a lost superblock, not a blank device:
// formatting it would destroy what can still be rescued (hazard 21).
Status refuse_lost_superblock(const Pmem& pmem) {
  char first_page[4096];
  if (!pmem.load(first_page, MediaOff{0}, sizeof first_page))
    return make_error(EIO, "media error in the first 4 KiB of the cache device");
  Identity identity;
  memcpy(&identity, first_page, sizeof identity);
  if (!all_zero(first_page, sizeof first_page) && identity.magic != kIdentityMagic)
    return make_error(
        EUCLEAN,
        "the first 4096 bytes hold something else (a file system or partition table?) and "
        "there is no superblock: not a cache device; zero its first 20 KiB to use it");
  Replicated<TailPos> key_tail(key_tail_place());
  const auto tail = key_tail.load(pmem);
  KsetHeader header{};
  if (tail && tail->cache_seg_id < segments_of_device(pmem.size_bytes()) &&
      tail->seg_off <= kSegDataBytes - sizeof header &&
      !pmem.load(&header, segment_data_off(tail->cache_seg_id) + tail->seg_off, sizeof header))
    return make_error(EIO, "media error in the log at segment %u", tail->cache_seg_id);
  if (header.magic == kKsetMagic)
    return make_error(
        EUCLEAN,
        "superblock at 4096: magic is 0 but there is a log with data at segment %u:%u: "
        "damaged, not blank; zero the first 20 KiB to give the data up",
        tail->cache_seg_id, tail->seg_off);
  return {};
}

}  // namespace

Result<DeviceState> probe_device(const Pmem& pmem) {
  if (pmem.size_bytes() < kMinDeviceBytes)
    return make_error(EINVAL, "cache device has %llu bytes, at least %llu (512 MiB) are needed",
                      static_cast<unsigned long long>(pmem.size_bytes()),
                      static_cast<unsigned long long>(kMinDeviceBytes));
  Superblock sb;
  if (!pmem.load(&sb, MediaOff{kSuperblockOff}, sizeof sb))
    return make_error(EIO, "superblock at 4096: media error (the only copy)");
  auto state = validate_superblock(sb, pmem.size_bytes());
  if (!state) return state.error();
  if (hazard(Hazard::kFormattedAgain) && !Replicated<CacheInfo>(cache_info_place()).load(pmem))
    return DeviceState::kBlank;
  if (state.value() == SuperblockState::kValid) return DeviceState::kFormatted;
  if (auto lost = refuse_lost_superblock(pmem); !lost) return lost.error();
  return DeviceState::kBlank;
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

void write_cache_info(Pmem& pmem, DeviceFrame& frame) {
  frame.info_record.write(pmem, make_cache_info(frame.info));
  pmem.fence();
}

}  // namespace pcache
