// SPDX-License-Identifier: GPL-2.0-or-later
#include "fuzz/mutation.h"

#include <algorithm>
#include <cstddef>

namespace pcache {

using namespace media;

namespace {

struct Field {
  uint32_t off, bytes;
};

#define FIELD(Struct, member) \
  Field { offsetof(Struct, member), sizeof(Struct::member) }
#define REPLICA_FIELDS(Struct)                                                         \
  FIELD(Struct, header.crc), FIELD(Struct, header.seq), FIELD(Struct, header.version), \
      FIELD(Struct, header.res)

constexpr Field kSuperblockFields[] = {FIELD(Superblock, crc), FIELD(Superblock, flags),
                                       FIELD(Superblock, magic), FIELD(Superblock, seg_num),
                                       FIELD(Superblock, padding)};
constexpr Field kCacheInfoFields[] = {REPLICA_FIELDS(CacheInfo), FIELD(CacheInfo, seg_id),
                                      FIELD(CacheInfo, n_segs), FIELD(CacheInfo, flags),
                                      FIELD(CacheInfo, reserved)};
constexpr Field kTailFields[] = {REPLICA_FIELDS(TailPos), FIELD(TailPos, cache_seg_id),
                                 FIELD(TailPos, seg_off)};
constexpr Field kSegmentInfoFields[] = {REPLICA_FIELDS(SegmentInfo), FIELD(SegmentInfo, flags),
                                        FIELD(SegmentInfo, next_seg)};
constexpr Field kGenerationFields[] = {REPLICA_FIELDS(SegmentGen), FIELD(SegmentGen, gen)};
constexpr Field kIdentityFields[] = {FIELD(Identity, crc),
                                     FIELD(Identity, version),
                                     FIELD(Identity, magic),
                                     FIELD(Identity, backing_bytes),
                                     FIELD(Identity, created_unix_s),
                                     Field{offsetof(Identity, backing), 1},
                                     Field{offsetof(Identity, backing) + 463, 1}};
constexpr Field kKsetFields[] = {FIELD(KsetHeader, crc), FIELD(KsetHeader, key_num),
                                 FIELD(KsetHeader, magic), FIELD(KsetHeader, flags)};
constexpr Field kKeyFields[] = {
    FIELD(Key, off),           FIELD(Key, len),     FIELD(Key, flags),    FIELD(Key, cache_seg_id),
    FIELD(Key, cache_seg_off), FIELD(Key, seg_gen), FIELD(Key, data_crc), FIELD(Key, reserved)};
constexpr Field kByteField[] = {{0, 1}};
#undef REPLICA_FIELDS
#undef FIELD

std::span<const Field> fields_of(RecordKind kind) {
  switch (kind) {
    case RecordKind::kSuperblock:
      return kSuperblockFields;
    case RecordKind::kCacheInfo:
      return kCacheInfoFields;
    case RecordKind::kTail:
      return kTailFields;
    case RecordKind::kSegmentInfo:
      return kSegmentInfoFields;
    case RecordKind::kGeneration:
      return kGenerationFields;
    case RecordKind::kIdentity:
      return kIdentityFields;
    case RecordKind::kKset:
      return kKsetFields;
    case RecordKind::kKey:
      return kKeyFields;
    default:
      return kByteField;
  }
}

// Values at the bounds.
constexpr uint64_t kEdges[] = {
    kSectorBytes,
    kPageBytes,
    kRangeBytes,
    kRangeBytes - kSectorBytes,
    kFuzzLogicalBytes,
    kFuzzLogicalBytes - kSectorBytes,
    kSegDataBytes,
    kSegDataBytes - sizeof(KsetHeader),
    kSegDataBytes - kMaxKsetBytes,
    kSegDataBytes - kSectorBytes,
    kFuzzSegments,
    kFuzzSegments - 1,
    kKeysPerKset,
    kKsetMagic,
    kSuperblockMagic,
    kIdentityMagic,
    uint64_t{1} << 63,
    uint64_t{1} << 31,
    UINT64_MAX - kSectorBytes + 1,
    UINT32_MAX - kSectorBytes + 1,
};

uint64_t changed(uint64_t old, uint64_t other, unsigned how, uint16_t value) {
  switch (how) {
    case 0:
      return 0;
    case 1:
      return UINT64_MAX;
    case 2:
      return old + 1;
    case 3:
      return old - 1;
    case 4:
      return value;
    case 5:
      return old ^ uint64_t { 1 } << value % 64;
    case 6:
      return other;
    case 7:
      return old + uint64_t{value} * kSectorBytes;
    case 8:
      return uint64_t{value} * kSectorBytes;
    case 9:
      return kEdges[value % std::size(kEdges)];
    case 10:
      return old + uint64_t{value} * 8;
    default:
      return uint64_t{value} << 16;
  }
}
constexpr unsigned kWaysOfAField = 12;
constexpr unsigned kCopy = kWaysOfAField, kZero = kCopy + 1, kWays = kZero + 1;

}  // namespace

MediaOff Mutator::kset_off(unsigned index) const {
  const CachePos pos = base_.ksets[index % base_.ksets.size()];
  return segment_data_off(pos.seg.v) + pos.off;
}

Mutator::Record Mutator::find(RecordKind kind, unsigned index, unsigned inner) const {
  const unsigned slot = index % 2, seg = index / 2 % kFuzzSegments;
  switch (kind) {
    case RecordKind::kSuperblock:
      return {MediaOff{kSuperblockOff}, sizeof(Superblock), {}};
    case RecordKind::kCacheInfo:
      return {MediaOff{kCacheInfoOff} + slot * kCacheInfoStride, sizeof(CacheInfo), {}};
    case RecordKind::kTail:
      return {MediaOff{kCacheCtrlOff} + index % 4 * sizeof(TailPos), sizeof(TailPos), {}};
    case RecordKind::kSegmentInfo:
      return {segment_off(seg) + slot * kSegInfoStride, sizeof(SegmentInfo), {}};
    case RecordKind::kGeneration:
      return {segment_off(seg) + kSegCtrlOff + slot * sizeof(SegmentGen), sizeof(SegmentGen), {}};
    case RecordKind::kIdentity:
      return {MediaOff{kIdentityOff}, sizeof(Identity), {}};
    case RecordKind::kKset:
      return {kset_off(index), sizeof(KsetHeader), kset_off(index)};
    case RecordKind::kKey:
    case RecordKind::kData: {
      const MediaOff kset = kset_off(index);
      const uint32_t keys = image_.peek<KsetHeader>(kset).key_num;
      const uint32_t n = inner % std::clamp(keys, 1u, kKeysPerKset);
      const Record key{kset + kset_bytes(n), sizeof(Key), kset};
      if (kind == RecordKind::kKey || !fits(key.at, sizeof(Key))) return key;
      const Key found = image_.peek<Key>(key.at);
      return {segment_data_off(found.cache_seg_id % kFuzzSegments) +
                  found.cache_seg_off % kSegDataBytes + inner % kSectorBytes,
              1,
              {},
              false};
    }
    default: {  // a byte of the first 20 KiB, of a segment's frame, or of the log
      MediaOff at{(index << 8 | inner) % kSegmentsOff};
      if (index % 3 == 1) at = segment_off(inner % kFuzzSegments) + index * 48;
      if (index % 3 == 2) at = kset_off(index) + inner * 8;
      return {at, 1, {}, false};
    }
  }
}

void Mutator::set_field(const Record& record, const Record& other, const Mutation& mutation) {
  const auto fields =
      fields_of(static_cast<RecordKind>(mutation.kind % static_cast<unsigned>(RecordKind::kCount)));
  const Field& field = fields[mutation.field % fields.size()];
  uint64_t old = 0, there = 0;
  memcpy(&old, image_.data() + record.at.v + field.off, field.bytes);
  if (fits(other.at, other.bytes))
    memcpy(&there, image_.data() + other.at.v + field.off, field.bytes);
  const uint64_t now = changed(old, there, mutation.how % kWays, mutation.value);
  image_.poke(record.at + field.off, &now, field.bytes);
}

uint32_t Mutator::room_behind(MediaOff at) const {
  const uint64_t in_segment = (at.v - kSegmentsOff) % kSegmentBytes;
  return static_cast<uint32_t>(std::min<uint64_t>(kSegmentBytes - in_segment, kMaxKsetBytes));
}

// Copies a kset with its keys, also to the log's end, which makes the log one kset longer.
void Mutator::copy_record(const Record& to, const Record& from, RecordKind kind) {
  uint32_t bytes = to.bytes;
  if (kind == RecordKind::kKset)
    bytes = std::min(room_behind(to.at),
                     kset_bytes(std::min(image_.peek<KsetHeader>(from.at).key_num, kKeysPerKset)));
  if (!fits(to.at, bytes) || !fits(from.at, bytes)) return;
  const std::vector<std::byte> copy(image_.data() + from.at.v, image_.data() + from.at.v + bytes);
  image_.poke(to.at, copy.data(), copy.size());
}

void Mutator::fix_kset(MediaOff at) {
  const auto header = image_.peek<KsetHeader>(at);
  uint32_t bytes = sizeof header;
  if (!(header.flags & kKsetLast)) bytes = kset_bytes(std::min(header.key_num, kKeysPerKset));
  if (bytes > room_behind(at)) return;
  image_.poke(at, crc32c(kCrcSeed, image_.data() + at.v + kCrcStart, bytes - kCrcStart));
}

void Mutator::fix_crc(const Record& record) {
  if (record.kset) return fix_kset(*record.kset);
  if (!record.has_crc) return;
  image_.poke(record.at,
              crc32c(kCrcSeed, image_.data() + record.at.v + kCrcStart, record.bytes - kCrcStart));
}

void Mutator::apply(const Mutation& mutation) {
  const auto kind =
      static_cast<RecordKind>(mutation.kind % static_cast<unsigned>(RecordKind::kCount));
  const Record record = find(kind, mutation.index, mutation.inner);
  if (!fits(record.at, record.bytes)) return;
  if (mutation.kind >= 240) {
    unreadable_.insert(record.at.v / kPageBytes * kPageBytes);
    return;
  }
  const unsigned step = 1 + mutation.value % 4;
  const Record other = find(kind, mutation.index + step, mutation.inner + step);
  const unsigned how = mutation.how % kWays;
  if (how == kCopy)
    copy_record(record, other, kind);
  else if (how == kZero)
    image_.poke(record.at, std::vector<std::byte>(record.bytes).data(), record.bytes);
  else
    set_field(record, other, mutation);
  // Zeros mean that a record was never written: a crc would change that.
  if (mutation.leave_crc >= 48 && how != kZero) fix_crc(record);
}

bool Mutator::make_unreadable() {
  for (const uint64_t page : unreadable_) image_.make_unreadable(MediaOff{page});
  return !unreadable_.empty();
}

}  // namespace pcache
