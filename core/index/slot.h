// SPDX-License-Identifier: GPL-2.0-or-later
// The index's two words: Slot (what a page or a sector is) and CheckWord (what verifies it).
//
// Slot, 64 bits:    63-62 state | 61 clean | 60 zeros | 59-0 payload
//   kEmpty          no payload (free blocks keep their link in such a word)
//   kMapped         34-15 segment id, 14-0 sector in the segment's data area. zeros: its data is
//                   zeros, whatever is there; the place only tells one key from another
//   kSplit          31-0 handle of a sector block (pages only)
//   kFill           59-0 token of the fill
// CheckWord:        63-32 crc | 26 one | 25-13 whole length in sectors - 1 | 12-0 delta
//   delta           sectors from the appended extent's start to this slot's start
//   all zero        no crc (data_crc off)
//
// In both the word for "n sectors further in the same extent" is the word + n.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "base/ids.h"

namespace pcache::index_impl {

inline constexpr uint32_t kSectorsPerPage = kPageBytes / kSectorBytes;
inline constexpr uint32_t kSlotsPerBlock = 8;

struct Slot {
  enum State : uint64_t { kEmpty = 0, kMapped = 1, kSplit = 2, kFill = 3 };
  static constexpr unsigned kStateShift = 62;
  static constexpr uint64_t kCleanBit = 1ull << 61;
  static constexpr uint64_t kZerosBit = 1ull << 60;
  static constexpr unsigned kSegmentShift = 15;
  static constexpr uint64_t kSectorMask = (1ull << kSegmentShift) - 1;
  static constexpr uint64_t kSegmentMask = (1ull << 20) - 1;
  static constexpr uint64_t kTokenMask = (1ull << 60) - 1;
  static constexpr uint64_t kPlaceMask =
      (3ull << kStateShift) | (kSegmentMask << kSegmentShift) | kSectorMask;

  uint64_t bits = 0;

  static Slot mapped(CachePos pos, bool clean, bool zeros = false) {
    PCACHE_DCHECK(pos.off % kSectorBytes == 0 && pos.off / kSectorBytes <= kSectorMask);
    PCACHE_DCHECK(pos.seg.v <= kSegmentMask);
    return {kMapped << kStateShift | (clean ? kCleanBit : 0) | (zeros ? kZerosBit : 0) |
            uint64_t{pos.seg.v} << kSegmentShift | pos.off / kSectorBytes};
  }
  static Slot split(uint32_t handle) { return {kSplit << kStateShift | handle}; }
  static Slot fill(uint64_t token) {
    PCACHE_DCHECK(token != 0 && token <= kTokenMask);
    return {kFill << kStateShift | token};
  }

  State state() const { return static_cast<State>(bits >> kStateShift); }
  bool is_empty() const { return state() == kEmpty; }
  bool is_mapped() const { return state() == kMapped; }
  bool is_split() const { return state() == kSplit; }
  bool is_fill() const { return state() == kFill; }
  // Mapped, and to be read at its place.
  bool is_data() const {
    return (bits & (3ull << kStateShift | kZerosBit)) == kMapped << kStateShift;
  }
  bool clean() const { return bits & kCleanBit; }
  bool zeros() const { return bits & kZerosBit; }                              // of a mapped one
  bool is_dirty() const { return bits >> (kStateShift - 1) == kMapped << 1; }  // mapped, not clean
  // What is_mapped(), clean() and is_dirty() say.
  bool counts_like(Slot other) const { return (bits ^ other.bits) >> (kStateShift - 1) == 0; }
  uint32_t handle() const { return static_cast<uint32_t>(bits); }
  uint64_t token() const { return bits & kTokenMask; }
  uint32_t sector() const { return bits & kSectorMask; }
  CachePos pos() const {
    return {SegId{static_cast<uint32_t>(bits >> kSegmentShift & kSegmentMask)},
            sector() * kSectorBytes};
  }
  bool same_place(Slot other) const { return ((bits ^ other.bits) & kPlaceMask) == 0; }
};

struct CheckWord {
  static constexpr uint64_t kDeltaMask = (1ull << 13) - 1;
  static constexpr unsigned kLenShift = 13;
  static constexpr uint64_t kPresentBit = 1ull << 26;
  static constexpr unsigned kCrcShift = 32;

  uint64_t bits = 0;

  static CheckWord whole(uint32_t crc, uint64_t sectors) {
    PCACHE_DCHECK(sectors >= 1 && sectors <= kDeltaMask + 1);
    return {uint64_t{crc} << kCrcShift | kPresentBit | (sectors - 1) << kLenShift};
  }

  CheckWord after(uint64_t sectors) const { return {bits != 0 ? bits + sectors : 0}; }
  uint32_t delta_bytes() const { return static_cast<uint32_t>(bits & kDeltaMask) * kSectorBytes; }
  uint32_t len_bytes() const {
    return static_cast<uint32_t>((bits >> kLenShift & kDeltaMask) + 1) * kSectorBytes;
  }
  uint32_t crc() const { return static_cast<uint32_t>(bits >> kCrcShift); }
};

// One slot with its check word; that is for mapped slots only, and 0 without data_crc.
struct Cell {
  Slot slot;
  CheckWord check;

  // The cell of the sector `sectors` further on in the same extent (or hole, or fill).
  Cell after(uint64_t sectors) const {
    if (!slot.is_mapped()) return *this;
    return {{slot.bits + sectors}, check.after(sectors)};
  }
  // Whether `next`, `sectors` behind this cell, continues the same extent.
  bool continued_by(Cell next, uint64_t sectors) const {
    if (slot.is_empty()) return next.slot.is_empty();
    if (!slot.is_mapped()) return slot.bits == next.slot.bits;
    // Sector 0 starts a segment: an extent that ends before it is in another segment.
    return next.slot.bits == slot.bits + sectors && next.check.bits == check.after(sectors).bits &&
           next.slot.sector() != 0;
  }
};

}  // namespace pcache::index_impl
