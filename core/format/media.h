// SPDX-License-Identifier: GPL-2.0-or-later
// The on-media format, byte-compatible with Linux's dm-pcache: structures and constants, no logic.
// Shared by everything that reads or writes media. Native-endian (little-endian machines only),
// natural alignment, reserved bytes written as zero.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pcache::media {

inline constexpr uint32_t kCrcSeed = 0x3B15A;

inline constexpr uint64_t kIdentityOff = 0;  // ours; the kernel does not use the first 4 KiB
inline constexpr uint64_t kSuperblockOff = 4096;
inline constexpr uint64_t kCacheInfoOff = 8192;
inline constexpr uint64_t kCacheInfoStride = 4096;
inline constexpr uint64_t kCacheCtrlOff = 16384;
inline constexpr uint64_t kSegmentsOff = 20480;
inline constexpr uint64_t kSegmentBytes = 16u << 20;
inline constexpr uint32_t kMaxSegments = 1048576;
inline constexpr uint64_t kMinDeviceBytes = 512ull << 20;

inline constexpr uint64_t kSegInfoStride = 4096;
inline constexpr uint64_t kSegCtrlOff = 8192;  // in the segment
inline constexpr uint64_t kSegDataOff = 12288;
inline constexpr uint32_t kSegDataBytes = kSegmentBytes - kSegDataOff;

inline constexpr uint64_t kSuperblockMagic = 0x65B05EFA96C596EF;
inline constexpr uint64_t kKsetMagic = 0x676894A64E164F1A;
inline constexpr uint32_t kKeysPerKset = 128;

// Every structure with a crc begins with it; it covers the bytes behind it.
inline constexpr size_t kCrcStart = 4;

inline constexpr uint32_t kSuperblockBigEndian = 1u << 0;

struct Superblock {
  uint32_t crc;
  uint32_t flags;
  uint64_t magic;
  uint32_t seg_num;
  uint32_t padding;
};
static_assert(sizeof(Superblock) == 24 && offsetof(Superblock, magic) == 8 &&
              offsetof(Superblock, seg_num) == 16);

// Ours, one word behind the superblock in its page: a format is under way. If the mark is there and
// the superblock has no magic, the device has nothing of value.
inline constexpr uint64_t kFormatMarkOff = kSuperblockOff + 64;
inline constexpr uint64_t kFormatMark = 0x4d46454843414350;  // "PCACHEFM"

// At the start of every record that has two replicas.
struct MetaHeader {
  uint32_t crc;
  uint8_t seq;
  uint8_t version;
  uint16_t res;
};
static_assert(sizeof(MetaHeader) == 8 && offsetof(MetaHeader, seq) == 4);

inline constexpr uint32_t kInfoDataCrc = 1u << 0;
inline constexpr uint32_t kInfoInitDone = 1u << 1;
inline constexpr uint32_t kInfoModeShift = 2, kInfoModeMask = 0xf;
inline constexpr uint32_t kInfoGcShift = 6, kInfoGcMask = 0x7f;
inline constexpr uint32_t kGcPercentMax = 90, kGcPercentDefault = 70;

struct CacheInfo {
  MetaHeader header;
  uint32_t seg_id;  // physical id of the first cache segment
  uint32_t n_segs;
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(CacheInfo) == 24 && offsetof(CacheInfo, flags) == 16);

struct TailPos {
  MetaHeader header;
  uint32_t cache_seg_id;
  uint32_t seg_off;
};
static_assert(sizeof(TailPos) == 16);

struct CacheCtrl {
  TailPos key_tail[2];
  TailPos dirty_tail[2];
};
static_assert(sizeof(CacheCtrl) == 64 && offsetof(CacheCtrl, dirty_tail) == 32);

inline constexpr uint32_t kSegHasNext = 1u << 0;
inline constexpr uint32_t kSegTypeShift = 1, kSegTypeMask = 0xf;
inline constexpr uint32_t kSegTypeCacheData = 1;

struct SegmentInfo {
  MetaHeader header;
  uint32_t flags;
  uint32_t next_seg;
};
static_assert(sizeof(SegmentInfo) == 16);

struct SegmentGen {
  MetaHeader header;
  uint64_t gen;
};
static_assert(sizeof(SegmentGen) == 16);

inline constexpr uint64_t kKsetLast = 1u << 0;
// Ours; the kernel target sets and looks at none but kKsetLast. No barrier of the user (FLUSH, FUA,
// PREFLUSH) is between the kset and the one before it in the log.
inline constexpr uint64_t kKsetSameEpoch = 1u << 1;
// Likewise: of what is in the log in front of a position nothing is needed, since later keys, which
// are in front of this kset and of the same epoch, have its data. The position is in the flags,
// too: offset / 8 and segment. So is how many ksets with keys are in front of it, up to the
// dirty_tail for which that was said; and a check of all this. An older version of ours leaves
// these two 0, and is not believed.
inline constexpr uint64_t kKsetPasses = 1u << 2;
inline constexpr uint32_t kKsetPassOffShift = 3, kKsetPassOffBits = 21;
inline constexpr uint32_t kKsetPassSegShift = 24, kKsetPassSegBits = 20;
inline constexpr uint32_t kKsetPassKsetsShift = 44, kKsetPassKsetsBits = 12;
inline constexpr uint32_t kKsetPassCheckShift = 56, kKsetPassCheckBits = 8;
inline constexpr uint32_t kMostPassedKsets = (1u << kKsetPassKsetsBits) - 1;
static_assert(kMaxSegments <= 1u << kKsetPassSegBits &&
              kSegmentBytes / 8 <= 1u << kKsetPassOffBits);

struct KsetHeader {
  uint32_t crc;
  uint32_t key_num;  // in a LAST kset: the segment where the log goes on
  uint64_t magic;
  uint64_t flags;
};
static_assert(sizeof(KsetHeader) == 24 && offsetof(KsetHeader, magic) == 8);

inline constexpr uint32_t kKeyEmpty = 1u << 0;  // never on media
inline constexpr uint32_t kKeyClean = 1u << 1;
// Ours; the kernel target does not look at them, and the data of such a key is there all the same.
inline constexpr uint32_t kKeyHole = 1u << 30;   // with kKeyZeros: the device need keep no room
inline constexpr uint32_t kKeyZeros = 1u << 31;  // all of the data is zeros

struct Key {
  uint64_t off;
  uint32_t len;
  uint32_t flags;
  uint32_t cache_seg_id;
  uint32_t cache_seg_off;
  uint64_t seg_gen;
  uint32_t data_crc;
  uint32_t reserved;
};
static_assert(sizeof(Key) == 40 && offsetof(Key, seg_gen) == 24 && offsetof(Key, data_crc) == 32);

inline constexpr uint32_t kMaxKsetBytes = sizeof(KsetHeader) + kKeysPerKset * sizeof(Key);

// Identity block, ours: which backing device the cache belongs to. While it is replaced, the new
// one stands at kIdentitySpareOff, too, and counts as long as the block is unfinished.
inline constexpr uint64_t kIdentitySpareOff = 512;
inline constexpr uint64_t kIdentityMagic = 0x4449454843414350;       // "PCACHEID"
inline constexpr uint64_t kIdentityUnfinished = 0x7e49454843414350;  // "PCACHEI~", while written
inline constexpr uint32_t kIdentityVersion = 1;

struct Identity {
  uint32_t crc;
  uint32_t version;
  uint64_t magic;
  uint8_t uuid[16];
  uint64_t backing_bytes;
  uint64_t created_unix_s;
  char backing[464];  // text, NUL-padded
};
static_assert(sizeof(Identity) == 512);

// Persist record, ours: what was measured of this memory by this CPU (Calibration). It is behind
// the identity block, in the same 4 KiB. If it is torn or of another CPU, attach measures again.
inline constexpr uint64_t kPersistOff = 1024;
inline constexpr uint64_t kPersistMagic = 0x4d50454843414350;  // "PCACHEPM"
inline constexpr uint32_t kPersistVersion = 1;

struct PersistRecord {
  uint32_t crc;
  uint32_t version;
  uint64_t magic;
  uint32_t cpu;        // crc32c of its name
  uint32_t pmem_kind;  // of the memory it was measured on,
  uint64_t bytes;      // and its size
  uint32_t n_methods;  // of persist_methods(), in their order
  uint32_t reserved;
  uint32_t ns[4][4];  // of each method, by class; 0: not on this CPU
  uint64_t made_unix_s;
};
static_assert(sizeof(PersistRecord) == 112);

}  // namespace pcache::media
