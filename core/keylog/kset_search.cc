// SPDX-License-Identifier: GPL-2.0-or-later
#include "keylog/kset_search.h"

#include <algorithm>
#include <cstring>

namespace pcache {

using media::Key;
using media::KsetHeader;

bool all_keys_live(std::span<const Key> keys, const SegmentTable& segments) {
  return std::all_of(keys.begin(), keys.end(), [&](const Key& key) {
    return key.cache_seg_id < segments.size() &&
           key.seg_gen >= segments.generation(SegId{key.cache_seg_id});
  });
}

namespace {

bool is_kset(const Pmem& pmem, const SegmentTable& segments, CachePos at) {
  alignas(8) std::byte buffer[media::kMaxKsetBytes];
  KsetHeader header;
  const uint32_t room = media::kSegDataBytes - at.off;
  if (room < sizeof header || !pmem.load(&header, segments.media(at), sizeof header)) return false;
  if (header.magic != media::kKsetMagic) return false;
  if (header.flags & media::kKsetLast)
    return header.crc == record_crc(header) && header.key_num < segments.size();
  if (header.key_num == 0 || header.key_num > media::kKeysPerKset) return false;
  const uint32_t bytes = kset_bytes(header.key_num);
  if (bytes > room || !pmem.load(buffer, segments.media(at), bytes)) return false;
  if (classify_kset({buffer, bytes}) != KsetState::kKeys) return false;
  return all_keys_live({reinterpret_cast<const Key*>(buffer + sizeof header), header.key_num},
                       segments);
}

}  // namespace

std::optional<CachePos> find_kset(const Pmem& pmem, const SegmentTable& segments, CachePos from) {
  constexpr uint32_t kMagicOff = offsetof(KsetHeader, magic);
  uint64_t words[kPageBytes / sizeof(uint64_t)];
  static_assert(media::kSegDataBytes % sizeof words == 0);
  PCACHE_DCHECK(from.seg.v < segments.size());
  // Ksets start at multiples of 8.
  const uint32_t first = (from.off + 7) / 8 * 8;
  for (uint32_t page = first / kPageBytes * kPageBytes; page < media::kSegDataBytes;
       page += kPageBytes) {
    if (!pmem.load(words, segments.media({from.seg, page}), sizeof words)) continue;
    for (uint32_t i = 0; i < std::size(words); i++) {
      const uint32_t magic_at = page + i * static_cast<uint32_t>(sizeof(uint64_t));
      if (words[i] != media::kKsetMagic || magic_at < first + kMagicOff) continue;
      const CachePos at{from.seg, magic_at - kMagicOff};
      if (is_kset(pmem, segments, at)) return at;
    }
  }
  return std::nullopt;
}

void each_kset_behind_garbage(const Pmem& pmem, const SegmentTable& segments, CachePos end,
                              const std::function<bool(CachePos, std::span<const Key>)>& visit) {
  KsetHeader header;
  if (end.off > media::kSegDataBytes - sizeof header ||
      !pmem.load(&header, segments.media(end), sizeof header))
    return;
  const bool torn =
      (header.magic == 0 || header.magic == media::kKsetMagic) && known_kset_flags(header.flags);
  if (torn) return;
  Key keys[media::kKeysPerKset];
  for (auto at = find_kset(pmem, segments, end + sizeof header); at;
       at = find_kset(pmem, segments, *at + sizeof header)) {
    if (!pmem.load(&header, segments.media(*at), sizeof header)) return;
    if (header.flags & media::kKsetLast || header.key_num > media::kKeysPerKset) continue;
    if (!pmem.load(keys, segments.media(*at) + sizeof header, header.key_num * sizeof(Key))) return;
    if (!visit(*at, {keys, header.key_num})) return;
  }
}

std::optional<CachePos> kset_behind_garbage(const Pmem& pmem, const SegmentTable& segments,
                                            CachePos end) {
  std::optional<CachePos> first;
  each_kset_behind_garbage(pmem, segments, end, [&](CachePos at, std::span<const Key>) {
    first = at;
    return false;
  });
  return first;
}

}  // namespace pcache
