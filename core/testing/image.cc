// SPDX-License-Identifier: GPL-2.0-or-later
#include "testing/image.h"

#include <cstring>
#include <numeric>

namespace pcache {

using namespace media;

Key make_key(Extent extent, CachePos data, uint64_t gen, uint32_t flags) {
  Key key{};
  key.off = extent.off;
  key.len = static_cast<uint32_t>(extent.len);
  key.flags = flags;
  key.cache_seg_id = data.seg.v;
  key.cache_seg_off = data.off;
  key.seg_gen = gen;
  return key;
}

Image::Image(uint32_t segments, const FormatOptions& options)
    : memory_(device_bytes(segments)), segments_(segments) {
  PCACHE_CHECK(format_device(memory_.pmem(), options).ok());
  memory_.checkpoint();
}

std::vector<uint32_t> Image::chain() const {
  std::vector<uint32_t> chain(segments_);
  std::iota(chain.begin(), chain.end(), 0u);
  return chain;
}

std::unique_ptr<SegmentTable> Image::table(Pmem& pmem, uint32_t log_reserve) const {
  return std::make_unique<SegmentTable>(pmem, SegmentTable::Options{chain(), log_reserve});
}

CachePos Image::kset(CachePos at, const std::vector<Key>& keys, uint64_t flags) {
  std::vector<std::byte> bytes(kset_bytes(static_cast<uint32_t>(keys.size())));
  memcpy(bytes.data() + sizeof(KsetHeader), keys.data(), keys.size() * sizeof(Key));
  auto* header = reinterpret_cast<KsetHeader*>(bytes.data());
  seal_kset(header, {reinterpret_cast<const Key*>(header + 1), keys.size()}, flags);
  memory_.poke(off(at), bytes.data(), bytes.size());
  return at + static_cast<uint32_t>(bytes.size());
}

CachePos Image::kset_of(CachePos at, uint32_t n, SegId data) {
  std::vector<Key> keys;
  for (uint32_t i = 0; i < n; i++)
    keys.push_back(
        make_key({uint64_t{i} * kSectorBytes, kSectorBytes}, CachePos{data, i * kSectorBytes}));
  return kset(at, keys);
}

CachePos Image::last(CachePos at, SegId next) {
  memory_.poke(off(at), make_last_kset(next));
  return CachePos{next, 0};
}

namespace {

template <typename Record>
void write_record(MemoryPmem& memory, const ReplicaPlace& place, const Record& record) {
  Replicated<Record> replicated(place);
  replicated.load(memory.pmem());
  PCACHE_CHECK(replicated.write(memory.pmem(), record));
  memory.pmem().fence();
  memory.checkpoint();
}

TailPos tail_at(CachePos pos) {
  TailPos tail{};
  tail.cache_seg_id = pos.seg.v;
  tail.seg_off = pos.off;
  return tail;
}

}  // namespace

void Image::key_tail(CachePos pos) { write_record(memory_, key_tail_place(), tail_at(pos)); }
void Image::dirty_tail(CachePos pos) { write_record(memory_, dirty_tail_place(), tail_at(pos)); }

void Image::generation(SegId seg, uint64_t gen) {
  SegmentGen record{};
  record.gen = gen;
  write_record(memory_, segment_gen_place(seg.v), record);
}

}  // namespace pcache
