// SPDX-License-Identifier: GPL-2.0-or-later
#include "request/zero_write.h"

#include <algorithm>
#include <array>
#include <bit>

#include "request/extent_write.h"

namespace pcache {

namespace {

constexpr uint32_t kLeastExtentBytes = 64 << 10;
constexpr uint64_t kKeysOfAPlace = 1024;

alignas(4096) constexpr std::byte kZeros[kLeastExtentBytes]{};

bool put_zeros(const Parts& parts, const Place& place) {
  for (uint32_t at = 0; at < place.len; at += kLeastExtentBytes)
    if (!parts.pmem.store(parts.segments.media(place.pos + at), kZeros,
                          std::min(kLeastExtentBytes, place.len - at)))
      return false;
  return true;
}

// A place with zeros, as long as the shorter of the two at least. No place: no segment is free, or
// all that were are bad.
Place take_place(const Parts& parts, DataHead& head, uint32_t wanted_bytes) {
  const uint32_t least = std::min(wanted_bytes, kLeastExtentBytes);
  // At a segment's end there may be less; behind it a segment begins.
  for (uint32_t tries = 0; tries < 2 * parts.segments.size() + 2; tries++) {
    const Place place = head.allocate(wanted_bytes);
    if (!place) return {};
    if (place.len < least) {
      parts.segments.drop_refs(place.pos.seg);
    } else if (put_zeros(parts, place)) {
      return place;
    } else {
      give_up_place(parts, head, place.pos.seg);
    }
  }
  return {};
}

uint32_t crc_of_zeros(uint32_t len_bytes) {
  uint32_t crc = media::kCrcSeed;
  for (uint32_t at = 0; at < len_bytes; at += kLeastExtentBytes)
    crc = crc32c(crc, kZeros, std::min(kLeastExtentBytes, len_bytes - at));
  return crc;
}

// Under keys of one place.
int write_part(const Parts& parts, DataHead& head, const Extent& todo, uint32_t key_flags,
               uint64_t* done_bytes) {
  const Place place = take_place(parts, head, zero_extent_bytes(todo.len));
  if (!place) return parts.segments.exhausted_for_data() ? -EIO : -ENOSPC;
  // Keys end where a multiple of their length does, so none crosses a range's end.
  const bool one_key = todo.len <= place.len && todo.off % kRangeBytes + todo.len <= kRangeBytes;
  const uint32_t most = one_key ? kRangeBytes : std::bit_floor(place.len);
  const uint64_t gen = parts.segments.view(place.pos.seg).generation();
  uint32_t crc = 0, crc_of = 0;
  int result = 0;
  for (uint64_t done = 0; done < todo.len && result == 0;) {
    std::array<StoredExtent, kMostStored> stored;
    size_t n = 0;
    uint64_t taken = 0, entered = 0;
    for (; n < stored.size() && done + taken < todo.len; n++) {
      const uint64_t off = todo.off + done + taken;
      const auto len =
          static_cast<uint32_t>(std::min<uint64_t>(todo.len - done - taken, most - off % most));
      if (parts.data_crc && crc_of != len) {
        crc = crc_of_zeros(len);
        crc_of = len;
      }
      stored[n] = {off, len, place.pos.seg.v, place.pos.off, crc, gen};
      taken += len;
    }
    parts.segments.add_refs(place.pos.seg, static_cast<int64_t>(n));
    result = enter_extents(parts, {stored.data(), n}, key_flags, &entered);
    PCACHE_CHECK(entered <= taken && (result != 0 || entered == taken));
    done += entered;
    *done_bytes += entered;
  }
  parts.segments.drop_refs(place.pos.seg);  // the place's own
  return result;
}

}  // namespace

uint32_t zero_extent_bytes(uint64_t part_bytes) {
  PCACHE_DCHECK(part_bytes <= kMostZeroPartBytes);
  const uint64_t share = std::bit_ceil(part_bytes / kKeysOfAPlace);
  return static_cast<uint32_t>(std::min(part_bytes, std::max<uint64_t>(share, kLeastExtentBytes)));
}

int write_zeros(const Parts& parts, DataHead& head, Extent todo, uint32_t key_flags,
                uint64_t* done_bytes) {
  PCACHE_DCHECK(key_flags & media::kKeyZeros);
  todo.len = std::min(todo.len, kMostZeroPartBytes);
  if (parts.zeros == nullptr) return write_part(parts, head, todo, key_flags, done_bytes);
  // Less than this at a time would be many places.
  todo.len = parts.zeros->take(todo.len, parts.zeros->most_bytes() / 8, parts.block_bytes);
  if (todo.len == 0) return -EBUSY;
  uint64_t done = 0;
  const int result = write_part(parts, head, todo, key_flags, &done);
  parts.zeros->give_back(todo.len - done);
  *done_bytes += done;
  return result;
}

}  // namespace pcache
