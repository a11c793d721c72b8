// SPDX-License-Identifier: GPL-2.0-or-later
#include "format/codec.h"

#include <algorithm>
#include <cstring>

#include "base/mutants.h"

namespace pcache {

using namespace media;

uint32_t segments_of_device(uint64_t device_bytes) {
  if (device_bytes <= kSegmentsOff) return 0;
  const uint64_t n = (device_bytes - kSegmentsOff) / kSegmentBytes;
  return static_cast<uint32_t>(std::min<uint64_t>(n, kMaxSegments));
}

uint64_t bytes_of_segments(uint32_t seg_num) { return kSegmentsOff + seg_num * kSegmentBytes; }

Superblock make_superblock(uint32_t seg_num) {
  PCACHE_CHECK(seg_num > 0 && seg_num <= kMaxSegments);
  Superblock sb{};
  sb.magic = kSuperblockMagic;
  sb.seg_num = seg_num;
  sb.crc = record_crc(sb);
  return sb;
}

namespace {

// The crc that four more bytes of zeros turn into `crc`.
uint32_t crc_before_zeros(uint32_t crc) {
  constexpr uint32_t kPolynomial = 0x82f63b78;  // crc32c, lowest bit first
  for (int bit = 0; bit < 32; bit++)
    crc = crc & 0x80000000 ? (crc ^ kPolynomial) << 1 | 1 : crc << 1;
  return crc;
}

}  // namespace

Superblock with_segments(const Superblock& sb, uint32_t seg_num) {
  Superblock made = sb;
  made.seg_num = seg_num;
  // A crc over the last four bytes is the crc before them, xor-ed with them, over four zeros.
  const uint32_t before = crc32c(kCrcSeed, reinterpret_cast<const char*>(&made) + kCrcStart,
                                 offsetof(Superblock, padding) - kCrcStart);
  made.padding = before ^ crc_before_zeros(sb.crc);
  PCACHE_CHECK(record_crc(made) == sb.crc);
  return made;
}

Result<SuperblockState> validate_superblock(const Superblock& sb, uint64_t device_bytes) {
  if (sb.magic == 0) return SuperblockState::kBlank;
  if (sb.magic != kSuperblockMagic)
    return make_error(EUCLEAN,
                      "superblock at 4096: magic is %#llx, expected %#llx: not a pcache device",
                      static_cast<unsigned long long>(sb.magic),
                      static_cast<unsigned long long>(kSuperblockMagic));
  const uint32_t crc = record_crc(sb);
  if (sb.crc != crc)
    return make_error(EUCLEAN,
                      "superblock at 4096: crc is %#x, expected %#x: damaged (the only copy)",
                      sb.crc, crc);
  if (sb.flags & kSuperblockBigEndian)
    return make_error(
        EUCLEAN, "superblock at 4096: written on a big-endian machine, this one is little-endian");
  const uint32_t fit = segments_of_device(device_bytes);
  if (sb.seg_num == 0 || sb.seg_num > fit)
    return make_error(
        EUCLEAN,
        "superblock at 4096: names %u segments, which need %llu bytes; the device has %llu and "
        "holds %u: it was cut, or the superblock is damaged; nothing was made longer",
        sb.seg_num, static_cast<unsigned long long>(bytes_of_segments(sb.seg_num)),
        static_cast<unsigned long long>(device_bytes), fit);
  return SuperblockState::kValid;
}

CacheInfo make_cache_info(const CacheInfoFields& fields) {
  PCACHE_CHECK(fields.gc_percent <= kInfoGcMask);
  CacheInfo info{};
  info.seg_id = fields.first_seg;
  info.n_segs = fields.n_segs;
  info.flags = (fields.data_crc ? kInfoDataCrc : 0) | (fields.init_done ? kInfoInitDone : 0) |
               static_cast<uint32_t>(fields.mode) << kInfoModeShift |
               (fields.gc_percent & kInfoGcMask) << kInfoGcShift;
  return info;
}

Result<CacheInfoFields> parse_cache_info(const CacheInfo& info, uint32_t seg_num) {
  CacheInfoFields fields;
  fields.first_seg = info.seg_id;
  fields.n_segs = info.n_segs;
  fields.data_crc = info.flags & kInfoDataCrc;
  fields.init_done = info.flags & kInfoInitDone;
  const uint32_t mode = info.flags >> kInfoModeShift & kInfoModeMask;
  fields.gc_percent = info.flags >> kInfoGcShift & kInfoGcMask;
  if (fields.n_segs == 0 || fields.n_segs > seg_num || fields.first_seg >= seg_num)
    return make_error(
        EUCLEAN, "cache_info: %u segments from segment %u on, the superblock names %u segments",
        fields.n_segs, fields.first_seg, seg_num);
  if (!fields.init_done)
    return make_error(EUCLEAN, "cache_info: init_done is not set: its formatting was not finished");
  if (mode >= kCacheModes)
    return make_error(EUCLEAN,
                      "cache_info: cache mode %u, known are 0 (writeback) to %u (passthrough)",
                      mode, kCacheModes - 1);
  fields.mode = static_cast<CacheMode>(mode);
  if (fields.gc_percent > kGcPercentMax) {
    fields.gc_percent = kGcPercentMax;
    fields.gc_percent_clamped = true;
  }
  return fields;
}

Result<CachePos> validate_position(const TailPos& pos, const Bounds& bounds) {
  if (pos.cache_seg_id >= bounds.n_segs)
    return make_error(EUCLEAN, "position names segment %u of %u", pos.cache_seg_id, bounds.n_segs);
  if (pos.seg_off > kSegDataBytes - sizeof(KsetHeader) || pos.seg_off % 8 != 0)
    return make_error(EUCLEAN, "position names offset %u, a kset can start at 0..%zu in steps of 8",
                      pos.seg_off, kSegDataBytes - sizeof(KsetHeader));
  return CachePos{SegId{pos.cache_seg_id}, pos.seg_off};
}

Status validate_key(const Key& key, const Bounds& bounds) {
  if (hazard(Hazard::kMediaNumbersTrusted)) return {};
  if (key.len == 0 || key.len % kSectorBytes || key.off % kSectorBytes)
    return make_error(EUCLEAN, "range %llu+%u is not in whole sectors",
                      static_cast<unsigned long long>(key.off), key.len);
  if (key.len > kRangeBytes || key.off % kRangeBytes + key.len > kRangeBytes)
    return make_error(EUCLEAN, "range %llu+%u crosses a 4 MiB boundary",
                      static_cast<unsigned long long>(key.off), key.len);
  if (key.off > bounds.device_bytes || key.len > bounds.device_bytes - key.off)
    return make_error(EUCLEAN, "range %llu+%u is past the backing device's %llu bytes",
                      static_cast<unsigned long long>(key.off), key.len,
                      static_cast<unsigned long long>(bounds.device_bytes));
  if (key.cache_seg_id >= bounds.n_segs)
    return make_error(EUCLEAN, "data in segment %u of %u", key.cache_seg_id, bounds.n_segs);
  if (key.cache_seg_off % kSectorBytes || key.cache_seg_off > kSegDataBytes ||
      key.len > kSegDataBytes - key.cache_seg_off)
    return make_error(EUCLEAN, "data at %u+%u of its segment, whose data area has %u bytes",
                      key.cache_seg_off, key.len, kSegDataBytes);
  constexpr uint32_t kKnown = kKeyClean | kKeyZeros | kKeyHole;
  if (key.flags & ~kKnown || (key.flags & (kKeyZeros | kKeyHole)) == kKeyHole)
    return make_error(EUCLEAN,
                      "key flags %#x, only CLEAN (0x2), ZEROS (0x80000000) and with it HOLE "
                      "(0x40000000) may be on media",
                      key.flags);
  return {};
}

void seal_kset(KsetHeader* header, std::span<const Key> keys, uint64_t flags) {
  PCACHE_DCHECK(!keys.empty() && keys.size() <= kKeysPerKset && !(flags & kKsetLast));
  PCACHE_DCHECK(reinterpret_cast<const Key*>(header + 1) == keys.data());
  header->key_num = static_cast<uint32_t>(keys.size());
  header->magic = kKsetMagic;
  header->flags = flags;
  header->crc = crc32c(kCrcSeed, reinterpret_cast<const char*>(header) + kCrcStart,
                       kset_bytes(header->key_num) - kCrcStart);
}

namespace {

constexpr uint64_t low_bits(uint32_t n) { return (uint64_t{1} << n) - 1; }
uint32_t pass_field(uint64_t flags, uint32_t shift, uint32_t bits) {
  return static_cast<uint32_t>(flags >> shift & low_bits(bits));
}

// Of all that belongs to the statement.
uint64_t pass_check(uint64_t flags) {
  const uint64_t statement = flags & low_bits(kKsetPassCheckShift) & ~(kKsetLast | kKsetSameEpoch);
  return crc32c(kCrcSeed, &statement, sizeof statement) & low_bits(kKsetPassCheckBits);
}

bool has_pass_check(uint64_t flags) {
  return pass_field(flags, kKsetPassKsetsShift, kKsetPassKsetsBits) > 0 &&
         flags >> kKsetPassCheckShift == pass_check(flags);
}

}  // namespace

uint64_t pass_flags(const PassStatement& statement) {
  const auto [end, ksets] = statement;
  PCACHE_CHECK(end.off % 8 == 0 && end.off < kSegDataBytes && end.seg.v < kMaxSegments);
  PCACHE_CHECK(ksets > 0 && ksets <= kMostPassedKsets);
  const uint64_t flags = kKsetPasses | uint64_t{end.off / 8} << kKsetPassOffShift |
                         uint64_t{end.seg.v} << kKsetPassSegShift |
                         uint64_t{ksets} << kKsetPassKsetsShift;
  return flags | pass_check(flags) << kKsetPassCheckShift;
}

std::optional<PassStatement> passed_by(uint64_t flags) {
  if (flags & kKsetLast || !(flags & kKsetPasses) || !has_pass_check(flags)) return std::nullopt;
  return PassStatement{{SegId{pass_field(flags, kKsetPassSegShift, kKsetPassSegBits)},
                        pass_field(flags, kKsetPassOffShift, kKsetPassOffBits) * 8},
                       pass_field(flags, kKsetPassKsetsShift, kKsetPassKsetsBits)};
}

bool known_kset_flags(uint64_t flags) {
  if (flags & kKsetLast) return flags == kKsetLast;
  if (!(flags & kKsetPasses)) return (flags & ~kKsetSameEpoch) == 0;
  return flags >> kKsetPassKsetsShift == 0 || has_pass_check(flags);
}

// A crc over four bytes is the crc before them, xor-ed with them, over four zeros.
LostPassFlags::LostPassFlags(std::span<const std::byte> kset) {
  KsetHeader header;
  memcpy(&header, kset.data(), sizeof header);
  PCACHE_CHECK(header.key_num <= kKeysPerKset && kset.size() >= kset_bytes(header.key_num));
  before_ = crc32c(kCrcSeed, kset.data() + kCrcStart, offsetof(KsetHeader, flags) - kCrcStart);
  half_ = header.crc;
  for (size_t at = kset_bytes(header.key_num); at > sizeof header;) {
    uint32_t word;
    memcpy(&word, kset.data() + (at -= sizeof word), sizeof word);
    half_ = crc_before_zeros(half_) ^ word;
  }
  half_ = crc_before_zeros(half_);
}

// The crc and the first half, which the position gives, say what the other half is.
std::optional<uint64_t> LostPassFlags::find(CachePos end, bool same_epoch) const {
  const uint64_t known = pass_flags({end, 1}) | (same_epoch ? kKsetSameEpoch : 0);
  const auto first = static_cast<uint32_t>(known);
  const uint64_t flags = uint64_t{crc32c(before_, &first, sizeof first) ^ half_} << 32 | first;
  const auto passed = passed_by(flags);
  return passed && passed->end == end ? std::optional(flags) : std::nullopt;
}

KsetHeader make_last_kset(SegId next) {
  KsetHeader header{};
  header.key_num = next.v;
  header.magic = kKsetMagic;
  header.flags = kKsetLast;
  header.crc = record_crc(header);
  return header;
}

KsetState classify_kset(std::span<const std::byte> bytes) {
  KsetHeader header;
  if (bytes.size() < sizeof header) return KsetState::kNone;
  memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kKsetMagic) return KsetState::kNone;
  if (header.flags & kKsetLast)
    return header.crc == record_crc(header) ? KsetState::kLast : KsetState::kBroken;
  if (header.key_num == 0 || header.key_num > kKeysPerKset ||
      kset_bytes(header.key_num) > bytes.size())
    return KsetState::kBroken;
  const uint32_t crc =
      crc32c(kCrcSeed, bytes.data() + kCrcStart, kset_bytes(header.key_num) - kCrcStart);
  return header.crc == crc ? KsetState::kKeys : KsetState::kBroken;
}

}  // namespace pcache
