// SPDX-License-Identifier: GPL-2.0-or-later
// Checksums and bounds of media records. Every number from media is checked here before it is used,
// even if its crc is right (hazard media-numbers-trusted).
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/crc32c.h"
#include "base/ids.h"
#include "base/result.h"
#include "format/cache_mode.h"
#include "format/media.h"

namespace pcache {

// The crc of a fixed-size record: all bytes behind its crc field.
template <typename Record>
uint32_t record_crc(const Record& record) {
  return crc32c(media::kCrcSeed, reinterpret_cast<const char*>(&record) + media::kCrcStart,
                sizeof record - media::kCrcStart);
}

// What `data_crc` of a key holds.
inline uint32_t data_crc32c(const void* data, size_t len_bytes) {
  return crc32c(media::kCrcSeed, data, len_bytes);
}

// How many segments a device of that size holds at most.
uint32_t segments_of_device(uint64_t device_bytes);
// How large a device with so many segments is at least.
uint64_t bytes_of_segments(uint32_t seg_num);

media::Superblock make_superblock(uint32_t seg_num);
// The same superblock for another number of segments, with the same crc: the padding, which nothing
// else uses, is chosen so. The two differ in one 8-byte word, so one store, which is never torn,
// turns one into the other.
media::Superblock with_segments(const media::Superblock& sb, uint32_t seg_num);
enum class SuperblockState { kBlank, kValid };
// EUCLEAN with a text if the superblock is foreign, torn, big-endian or impossible.
Result<SuperblockState> validate_superblock(const media::Superblock& sb, uint64_t device_bytes);

struct CacheInfoFields {
  uint32_t first_seg = 0;
  uint32_t n_segs = 0;
  bool data_crc = false;
  bool init_done = false;
  CacheMode mode = CacheMode::kWriteback;
  uint32_t gc_percent = media::kGcPercentDefault;
  bool gc_percent_clamped = false;  // the media has more than 90
};
media::CacheInfo make_cache_info(const CacheInfoFields& fields);
Result<CacheInfoFields> parse_cache_info(const media::CacheInfo& info, uint32_t seg_num);

// The bounds for positions and keys.
struct Bounds {
  uint32_t n_segs = 0;        // length of the segment chain
  uint64_t device_bytes = 0;  // backing device
  uint32_t block_bytes = kSectorBytes;
};

// A tail: where a kset header may be. A log position is never behind the last place for a LAST
// kset.
Result<CachePos> validate_position(const media::TailPos& pos, const Bounds& bounds);

Status validate_key(const media::Key& key, const Bounds& bounds);

// For functions that are told how to get an item's place, such as Index::prefetch_each().
inline uint64_t off_of_key(const media::Key& key) { return key.off; }

// Sets magic, flags, key_num and crc of a kset whose keys follow `header` in memory.
void seal_kset(media::KsetHeader* header, std::span<const media::Key> keys, uint64_t flags = 0);
media::KsetHeader make_last_kset(SegId next);

// What a kset with kKsetPasses says: nothing in front of `end` is needed, of so many ksets with
// keys. What is farther in front than these it says nothing of.
struct PassStatement {
  CachePos end;
  uint32_t ksets = 0;  // 1..kMostPassedKsets
  friend bool operator==(const PassStatement&, const PassStatement&) = default;
};
// As flags, and back; nothing: the flags do not say so, fail their check, have none (as those of an
// older version), or have bits that no version sets.
uint64_t pass_flags(const PassStatement& statement);
std::optional<PassStatement> passed_by(uint64_t flags);
// Whether a kset with keys, or a LAST one, may have them.
bool known_kset_flags(uint64_t flags);

// For a kset whose flags are damaged, and nothing else: its flags, if they named a certain
// position. That they fit its crc, and their own check, by chance, is one in 2^20.
class LostPassFlags {
 public:
  // Header and keys; the header's key_num fits.
  explicit LostPassFlags(std::span<const std::byte> kset);
  std::optional<uint64_t> find(CachePos end, bool same_epoch) const;

 private:
  uint32_t before_;  // the crc of what is in front of them
  uint32_t half_;    // what the crc has to be after their first half, xor-ed with the other
};

inline uint32_t kset_bytes(uint32_t key_num) {
  return static_cast<uint32_t>(sizeof(media::KsetHeader) + key_num * sizeof(media::Key));
}

enum class KsetState {
  kNone,    // no magic: the log ends here
  kKeys,    // valid, with keys
  kLast,    // valid, leads to another segment
  kBroken,  // magic, but the crc or the count is wrong: torn or damaged
};
// `bytes`: from the header to the end of the segment's data area, at most kMaxKsetBytes.
KsetState classify_kset(std::span<const std::byte> bytes);

}  // namespace pcache
