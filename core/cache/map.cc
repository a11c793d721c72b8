// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/map.h"

#include <algorithm>

namespace pcache {

namespace {

constexpr size_t kPieces = 16;

bool same_kind(const MappedExtent& a, const MappedExtent& b) {
  return a.cached == b.cached && a.dirty == b.dirty && a.zeros == b.zeros && a.hole == b.hole;
}

class Mapper {
 public:
  explicit Mapper(std::span<MappedExtent> out) : out_(out) {}
  size_t count() const { return n_; }
  // False: there is no room for it.
  bool add(const MappedExtent& found) {
    if (n_ > 0 && same_kind(out_[n_ - 1], found)) {
      out_[n_ - 1].extent.len += found.extent.len;
      return true;
    }
    if (n_ == out_.size()) return false;
    out_[n_++] = found;
    return true;
  }

 private:
  const std::span<MappedExtent> out_;
  size_t n_ = 0;
};

// What the backing device alone has.
bool add_uncached(const BlockDevice& backing, Extent left, Mapper* mapper) {
  while (left.len > 0) {
    uint64_t end = 0;
    const bool hole = backing.is_hole(left.off, &end);
    PCACHE_CHECK(end > left.off);
    const uint64_t len = std::min(end - left.off, left.len);
    if (!mapper->add({{left.off, len}, false, false, hole, hole})) return false;
    left = {left.off + len, left.len - len};
  }
  return true;
}

}  // namespace

size_t map_range(const Index& index, const BlockDevice& backing, Extent range,
                 std::span<MappedExtent> out) {
  Mapper mapper(out);
  while (range.len > 0) {
    const uint64_t to_boundary = kRangeBytes - range.off % kRangeBytes;
    Piece pieces[kPieces];
    Index::Snapshot snapshot;
    const size_t n = index.lookup({range.off, std::min(range.len, to_boundary)}, pieces, &snapshot);
    if (!index.still_valid(snapshot)) continue;
    for (size_t i = 0; i < n; i++) {
      const Piece& piece = pieces[i];
      const bool added = piece.kind == Piece::Kind::kHit
                             ? mapper.add({piece.extent, true, !piece.clean, piece.zeros, false})
                             : add_uncached(backing, piece.extent, &mapper);
      if (!added) return mapper.count();
    }
    const uint64_t end = pieces[n - 1].extent.end();
    range = {end, range.end() - end};
  }
  return mapper.count();
}

}  // namespace pcache
