// SPDX-License-Identifier: GPL-2.0-or-later
// Records: what is accepted, whatever the crc says (hazard media-numbers-trusted).
#include "format/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "testing/image.h"

namespace pcache {
namespace {

using namespace media;
using ::testing::HasSubstr;

constexpr uint64_t kGiB = 1ull << 30;
constexpr uint64_t kMiB = 1ull << 20;

TEST(SuperblockWithSegments, HasTheSameCrcAndDiffersInOneWord) {
  Superblock sb = make_superblock(31);
  for (const uint32_t n : {32u, 63u, 64u, 1u, 1048576u, 31u}) {
    const Superblock made = with_segments(sb, n);
    EXPECT_EQ(made.crc, record_crc(made));
    EXPECT_EQ(made.seg_num, n);
    EXPECT_EQ(memcmp(&made, &sb, offsetof(Superblock, seg_num)), 0);
    sb = made;
  }
  EXPECT_EQ(sb.padding, 0u) << "back where it began";
}

TEST(SegmentsOfDevice, Table) {
  const struct {
    uint64_t bytes;
    uint32_t segments;
  } rows[] = {
      {0, 0},
      {kSegmentsOff, 0},
      {device_bytes(1) - 1, 0},
      {device_bytes(1), 1},
      {512 * kMiB, 31},
      {device_bytes(kMaxSegments), kMaxSegments},
      {device_bytes(kMaxSegments) + 100 * kGiB, kMaxSegments},
      {~0ull, kMaxSegments},
  };
  for (const auto& row : rows) EXPECT_EQ(segments_of_device(row.bytes), row.segments) << row.bytes;
}

TEST(Superblock, Table) {
  const struct {
    const char* name;
    std::function<void(Superblock&)> change;
    bool fix_crc;
    const char* verdict;  // part of the error, or "valid" or "blank"
  } rows[] = {
      {"as made", [](Superblock&) {}, false, "valid"},
      {"fewer segments than fit", [](Superblock& sb) { sb.seg_num = 1; }, true, "valid"},
      {"as many as fit", [](Superblock& sb) { sb.seg_num = 31; }, true, "valid"},
      {"one more than fits", [](Superblock& sb) { sb.seg_num = 32; }, true, "names 32 segments"},
      {"2^32 - 1 segments", [](Superblock& sb) { sb.seg_num = ~0u; }, true, "names 4294967295"},
      {"no segments", [](Superblock& sb) { sb.seg_num = 0; }, true, "names 0 segments"},
      {"magic 0", [](Superblock& sb) { sb.magic = 0; }, false, "blank"},
      {"foreign magic", [](Superblock& sb) { sb.magic++; }, true, "not a pcache device"},
      {"big-endian", [](Superblock& sb) { sb.flags = kSuperblockBigEndian; }, true, "big-endian"},
      {"crc flipped", [](Superblock& sb) { sb.crc ^= 1; }, false, "crc is"},
      {"seg_num flipped", [](Superblock& sb) { sb.seg_num ^= 1; }, false, "crc is"},
      {"flags flipped", [](Superblock& sb) { sb.flags ^= 2; }, false, "crc is"},
      {"padding flipped", [](Superblock& sb) { sb.padding ^= 1; }, false, "crc is"},
  };
  for (const auto& row : rows) {
    Superblock sb = make_superblock(31);
    row.change(sb);
    if (row.fix_crc) sb.crc = record_crc(sb);
    const auto state = validate_superblock(sb, 512 * kMiB);
    const std::string verdict = !state                                     ? state.error().text
                                : state.value() == SuperblockState::kValid ? "valid"
                                                                           : "blank";
    EXPECT_THAT(verdict, HasSubstr(row.verdict)) << row.name;
    if (!state) {
      EXPECT_EQ(state.error().code, EUCLEAN) << row.name;
    }
  }
}

// A big-endian machine stores every field byte-swapped, the magic, too.
TEST(Superblock, WrittenByABigEndianMachineIsRefused) {
  Superblock sb = make_superblock(31);
  sb.magic = __builtin_bswap64(sb.magic);
  sb.seg_num = __builtin_bswap32(sb.seg_num);
  sb.crc = record_crc(sb);
  EXPECT_FALSE(validate_superblock(sb, 512 * kMiB).ok());
}

TEST(CacheInfo, RoundTrip) {
  for (const bool data_crc : {false, true})
    for (uint32_t gc = 0; gc <= kGcPercentMax; gc++) {
      CacheInfoFields fields;
      fields.first_seg = 3;
      fields.n_segs = 28;
      fields.data_crc = data_crc;
      fields.init_done = true;
      fields.gc_percent = gc;
      const auto parsed = parse_cache_info(make_cache_info(fields), 31);
      ASSERT_TRUE(parsed.ok());
      EXPECT_EQ(parsed.value().first_seg, 3u);
      EXPECT_EQ(parsed.value().n_segs, 28u);
      EXPECT_EQ(parsed.value().data_crc, data_crc);
      EXPECT_EQ(parsed.value().gc_percent, gc);
      EXPECT_FALSE(parsed.value().gc_percent_clamped);
    }
}

TEST(CacheInfo, FlagsAreTheKernels) {
  CacheInfoFields fields;
  fields.init_done = true;
  EXPECT_EQ(make_cache_info(fields).flags, 0x1182u);  // as golden image a_empty has them
  fields.data_crc = true;
  EXPECT_EQ(make_cache_info(fields).flags, 0x1183u);
}

TEST(CacheInfo, GcPercentAboveTheMaximumIsClamped) {
  for (uint32_t gc = kGcPercentMax + 1; gc <= kInfoGcMask; gc++) {
    CacheInfoFields fields;
    fields.n_segs = 31;
    fields.init_done = true;
    fields.gc_percent = gc;
    const auto parsed = parse_cache_info(make_cache_info(fields), 31);
    ASSERT_TRUE(parsed.ok()) << gc;
    EXPECT_EQ(parsed.value().gc_percent, kGcPercentMax) << gc;
    EXPECT_TRUE(parsed.value().gc_percent_clamped) << gc;
  }
}

TEST(CacheInfo, Table) {
  constexpr uint32_t kDone = kInfoInitDone;
  const struct {
    const char* name;
    uint32_t first, n, flags;
    const char* verdict;
  } rows[] = {
      {"all segments", 0, 31, kDone, "ok"},
      {"first is the last there is", 30, 31, kDone, "ok"},
      {"first is past them", 31, 1, kDone, "from segment 31 on"},
      {"first is far out", ~0u, 1, kDone, "from segment 4294967295 on"},
      {"none", 0, 0, kDone, "0 segments"},
      {"one too many", 0, 32, kDone, "32 segments"},
      {"2^32 - 1", 0, ~0u, kDone, "4294967295 segments"},
      {"init_done missing", 0, 31, 0, "init_done"},
      {"writethrough", 0, 31, kDone | 1u << kInfoModeShift, "ok"},
      {"passthrough", 0, 31, kDone | 4u << kInfoModeShift, "ok"},
      {"mode 5", 0, 31, kDone | 5u << kInfoModeShift, "cache mode 5"},
      {"mode 15", 0, 31, kDone | 15u << kInfoModeShift, "cache mode 15"},
      {"unknown flag bits", 0, 31, kDone | 1u << 13 | 1u << 31, "ok"},
  };
  for (const auto& row : rows) {
    CacheInfo info{};
    info.seg_id = row.first;
    info.n_segs = row.n;
    info.flags = row.flags;
    const auto parsed = parse_cache_info(info, 31);
    EXPECT_THAT(parsed ? "ok" : parsed.error().text, HasSubstr(row.verdict)) << row.name;
    if (!parsed) {
      EXPECT_EQ(parsed.error().code, EUCLEAN) << row.name;
    }
  }
}

TEST(Position, Table) {
  constexpr uint32_t kLastPlace = kSegDataBytes - sizeof(KsetHeader);
  const struct {
    uint32_t seg, off;
    const char* verdict;
  } rows[] = {
      {0, 0, "ok"},
      {30, 8, "ok"},
      {31, 0, "segment 31 of 31"},
      {~0u, 0, "segment 4294967295 of 31"},
      {0, kLastPlace, "ok"},
      {0, kLastPlace + 8, "offset"},
      {0, kSegDataBytes, "offset"},
      {0, ~0u - 7, "offset"},
      {0, 4, "steps of 8"},
      {0, 1, "steps of 8"},
  };
  for (const auto& row : rows) {
    TailPos tail{};
    tail.cache_seg_id = row.seg;
    tail.seg_off = row.off;
    const auto pos = validate_position(tail, Bounds{31, kGiB});
    EXPECT_THAT(pos ? "ok" : pos.error().text, HasSubstr(row.verdict)) << row.seg << ":" << row.off;
    if (pos) {
      EXPECT_EQ(pos.value(), (CachePos{SegId{row.seg}, row.off}));
    }
  }
}

TEST(KeyBounds, Table) {
  constexpr uint64_t kDevice = kGiB + 3 * kSectorBytes;
  constexpr uint32_t kRange = kRangeBytes, kSector = kSectorBytes, kData = kSegDataBytes;
  const struct {
    const char* name;
    uint64_t off;
    uint32_t len, seg, seg_off, flags;
    const char* verdict;
  } rows[] = {
      {"one sector", 0, kSector, 0, 0, 0, "ok"},
      {"clean", 0, kSector, 0, 0, kKeyClean, "ok"},
      {"a whole range", kRange, kRange, 30, 0, 0, "ok"},
      {"empty", 0, 0, 0, 0, 0, "not in whole sectors"},
      {"length of 511", 0, 511, 0, 0, 0, "not in whole sectors"},
      {"offset of 1", 1, kSector, 0, 0, 0, "not in whole sectors"},
      {"a sector past a 4 MiB boundary", kRange - kSector, 2 * kSector, 0, 0, 0, "crosses a 4 MiB"},
      {"longer than a range", 0, kRange + kSector, 0, 0, 0, "crosses a 4 MiB"},
      {"longest length", 0, ~0u - 511, 0, 0, 0, "crosses a 4 MiB"},
      {"the device's last sector", kDevice - kSector, kSector, 0, 0, 0, "ok"},
      {"a sector past the device", kDevice - kSector, 2 * kSector, 0, 0, 0, "past the backing"},
      {"behind the device", kDevice, kSector, 0, 0, 0, "past the backing"},
      {"the last sector of 64 bits", ~0ull - 511, kSector, 0, 0, 0, "past the backing"},
      {"off + len wraps", ~0ull - 511, kRange, 0, 0, 0, "crosses a 4 MiB"},
      {"the last segment", 0, kSector, 30, 0, 0, "ok"},
      {"segment out of range", 0, kSector, 31, 0, 0, "segment 31 of 31"},
      {"segment far out", 0, kSector, ~0u, 0, 0, "segment 4294967295 of 31"},
      {"the data area's last sector", 0, kSector, 0, kData - kSector, 0, "ok"},
      {"a sector past the data area", 0, 2 * kSector, 0, kData - kSector, 0, "data area"},
      {"at the data area's end", 0, kSector, 0, kData, 0, "data area"},
      {"far past it", 0, kSector, 0, ~0u - 511, 0, "data area"},
      {"data off a sector boundary", 0, kSector, 0, 8, 0, "data area"},
      {"EMPTY", 0, kSector, 0, 0, kKeyEmpty, "flags"},
      {"EMPTY and CLEAN", 0, kSector, 0, 0, kKeyEmpty | kKeyClean, "flags"},
      {"ZEROS", 0, kSector, 0, 0, kKeyZeros, "ok"},
      {"ZEROS and HOLE", 0, kSector, 0, 0, kKeyZeros | kKeyHole, "ok"},
      {"ZEROS and CLEAN", 0, kSector, 0, 0, kKeyZeros | kKeyClean, "ok"},
      {"HOLE alone", 0, kSector, 0, 0, kKeyHole, "flags"},
      {"unknown flag", 0, kSector, 0, 0, 1u << 29, "flags"},
  };
  for (const auto& row : rows) {
    Key key = make_key({row.off, row.len}, CachePos{SegId{row.seg}, row.seg_off}, 0, row.flags);
    const auto valid = validate_key(key, Bounds{31, kDevice});
    EXPECT_THAT(valid ? "ok" : valid.error().text, HasSubstr(row.verdict)) << row.name;
    if (!valid) {
      EXPECT_EQ(valid.error().code, EUCLEAN) << row.name;
    }
  }
}

class KsetBytes : public ::testing::Test {
 protected:
  static std::vector<std::byte> sealed(uint32_t n) {
    std::vector<std::byte> bytes(kset_bytes(n));
    auto* header = reinterpret_cast<KsetHeader*>(bytes.data());
    auto* keys = reinterpret_cast<Key*>(header + 1);
    for (uint32_t i = 0; i < n; i++) keys[i] = make_key({i * 4096ull, 4096}, {SegId{1}, i * 4096});
    seal_kset(header, {keys, n});
    return bytes;
  }
  static std::vector<std::byte> last() {
    const KsetHeader header = make_last_kset(SegId{7});
    std::vector<std::byte> bytes(sizeof header);
    memcpy(bytes.data(), &header, sizeof header);
    return bytes;
  }
  static KsetHeader& header(std::vector<std::byte>& bytes) {
    return *reinterpret_cast<KsetHeader*>(bytes.data());
  }
};

TEST_F(KsetBytes, EveryNumberOfKeys) {
  for (uint32_t n = 1; n <= kKeysPerKset; n++)
    ASSERT_EQ(classify_kset(sealed(n)), KsetState::kKeys) << n;
  EXPECT_EQ(classify_kset(last()), KsetState::kLast);
}

TEST_F(KsetBytes, TheSealedHeaderSaysNothingElse) {
  auto bytes = sealed(3);
  EXPECT_EQ(header(bytes).key_num, 3u);
  EXPECT_EQ(header(bytes).magic, kKsetMagic);
  EXPECT_EQ(header(bytes).flags, 0u);
}

TEST_F(KsetBytes, EveryTruncatedLength) {
  for (const uint32_t n : {1u, 5u, 128u}) {
    const auto bytes = sealed(n);
    for (size_t len = 0; len < bytes.size(); len++) {
      const auto expected = len < sizeof(KsetHeader) ? KsetState::kNone : KsetState::kBroken;
      ASSERT_EQ(classify_kset({bytes.data(), len}), expected) << n << " keys, " << len << " bytes";
    }
  }
  const auto bytes = last();
  for (size_t len = 0; len < bytes.size(); len++)
    ASSERT_EQ(classify_kset({bytes.data(), len}), KsetState::kNone) << len;
}

TEST_F(KsetBytes, MoreBytesThanTheKsetAreFine) {
  auto bytes = sealed(2);
  bytes.resize(kMaxKsetBytes, std::byte{0xee});
  EXPECT_EQ(classify_kset(bytes), KsetState::kKeys);
}

TEST_F(KsetBytes, ImpossibleKeyNumbersWithAValidCrc) {
  for (const uint32_t key_num : {0u, 129u, 130u, 0x7fffffffu, ~0u}) {
    auto bytes = sealed(128);
    bytes.resize(kset_bytes(130));
    header(bytes).key_num = key_num;
    const uint32_t covered = key_num == 0 ? 0 : std::min(key_num, 130u);
    header(bytes).crc = crc32c(kCrcSeed, bytes.data() + kCrcStart, kset_bytes(covered) - kCrcStart);
    EXPECT_EQ(classify_kset(bytes), KsetState::kBroken) << key_num;
  }
}

TEST_F(KsetBytes, EveryFlippedBit) {
  for (auto bytes : {sealed(2), last()}) {
    for (size_t bit = 0; bit < bytes.size() * 8; bit++) {
      bytes[bit / 8] ^= std::byte(1 << bit % 8);
      const bool in_magic =
          bit / 8 >= offsetof(KsetHeader, magic) && bit / 8 < offsetof(KsetHeader, flags);
      ASSERT_EQ(classify_kset(bytes), in_magic ? KsetState::kNone : KsetState::kBroken) << bit;
      bytes[bit / 8] ^= std::byte(1 << bit % 8);
    }
  }
}

TEST_F(KsetBytes, AKsetSaysUpToWhereNothingIsNeeded) {
  for (const PassStatement said :
       {PassStatement{{SegId{0}, 0}, 1}, PassStatement{{SegId{30}, 5144}, 17},
        PassStatement{{SegId{kMaxSegments - 1}, kSegDataBytes - 24}, kMostPassedKsets}}) {
    const uint64_t flags = pass_flags(said);
    EXPECT_EQ(passed_by(flags), said);
    EXPECT_EQ(passed_by(flags | kKsetSameEpoch), said);
    EXPECT_EQ(passed_by(flags | kKsetLast), std::nullopt);
    EXPECT_FALSE(flags & (kKsetLast | kKsetSameEpoch));
    EXPECT_TRUE(known_kset_flags(flags | kKsetSameEpoch));
    for (int bit = 2; bit < 64; bit++) {
      EXPECT_EQ(passed_by(flags ^ uint64_t{1} << bit), std::nullopt) << bit;
      EXPECT_FALSE(known_kset_flags(flags ^ uint64_t{1} << bit)) << bit;
    }
    const uint64_t older = flags & ((uint64_t{1} << kKsetPassKsetsShift) - 1);
    EXPECT_EQ(passed_by(older), std::nullopt) << "an older version's";
    EXPECT_TRUE(known_kset_flags(older));
  }
  EXPECT_EQ(passed_by(0), std::nullopt);
  for (const uint64_t flags : {uint64_t{0}, kKsetSameEpoch, kKsetLast, kKsetPasses | 8})
    EXPECT_TRUE(known_kset_flags(flags)) << flags;
  for (const uint64_t flags : {uint64_t{8}, kKsetLast | kKsetSameEpoch, kKsetSameEpoch | 1u << 24})
    EXPECT_FALSE(known_kset_flags(flags)) << flags;
}

TEST_F(KsetBytes, LostFlagsAreFoundByTheirPosition) {
  for (const uint32_t n : {1u, 2u, 128u}) {
    auto bytes = sealed(n);
    auto& kset = header(bytes);
    const PassStatement said{{SegId{30}, 5144}, 17};
    for (const uint64_t epoch : {uint64_t{0}, kKsetSameEpoch}) {
      const uint64_t flags = pass_flags(said) | epoch;
      seal_kset(&kset, {reinterpret_cast<const Key*>(&kset + 1), n}, flags);
      for (const uint64_t found : {uint64_t{0}, ~uint64_t{0}, uint64_t{0x123456789abcdef0}}) {
        kset.flags = found;
        EXPECT_EQ(LostPassFlags(bytes).find(said.end, epoch != 0), flags);
        EXPECT_EQ(LostPassFlags(bytes).find(said.end, epoch == 0), std::nullopt);
        EXPECT_EQ(LostPassFlags(bytes).find({SegId{30}, 5152}, epoch != 0), std::nullopt);
        EXPECT_EQ(LostPassFlags(bytes).find({SegId{31}, 5144}, epoch != 0), std::nullopt);
      }
    }
  }
}

TEST_F(KsetBytes, ClearedIsNone) {
  EXPECT_EQ(classify_kset(std::vector<std::byte>(kMaxKsetBytes)), KsetState::kNone);
}

TEST(DataCrc, IsSeededAndNotInverted) {
  const unsigned char zeros[512] = {};
  EXPECT_EQ(data_crc32c(zeros, 0), kCrcSeed);
  EXPECT_EQ(data_crc32c(zeros, 512), crc32c(0x3B15A, zeros, 512));
}

}  // namespace
}  // namespace pcache
