// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/damaged.h"

#include <iterator>
#include <new>

#include "segment/media_crc.h"

namespace pcache {

using media::Key;

namespace {

CachePos place_of(const Key& key) { return {SegId{key.cache_seg_id}, key.cache_seg_off}; }

}  // namespace

std::optional<Piece> DamagedData::find(const Named& named) const {
  for (uint64_t at = named.extent.off; at < named.extent.end();) {
    Piece piece;
    Index::Snapshot snapshot;
    parts_.index.lookup({at, named.extent.end() - at}, {&piece, 1}, &snapshot);
    const CachePos expected = named.pos + static_cast<uint32_t>(at - named.extent.off);
    if (piece.kind == Piece::Kind::kHit && !piece.clean && piece.pos == expected &&
        (!parts_.data_crc || piece.crc == named.crc ||
         kept_.contains({piece.pos.seg.v, piece.pos.off, named.gen})))
      return piece;
    at = piece.extent.end();
  }
  return std::nullopt;
}

bool DamagedData::in_index(const Named& named) const {
  StripeLock lock(parts_.stripes.of(named.extent.off));
  return find(named).has_value();
}

DamagedData::State DamagedData::state(const Key& key) {
  const auto known = known_.find(id_of(key));
  if (known == known_.end()) return State::kNotKnown;
  if (in_index(known->second.named))
    return known->second.unproven ? State::kNotKnown : State::kDamaged;
  known_.erase(known);
  return State::kOverwritten;
}

uint64_t DamagedData::count() {
  for (auto at = known_.begin(); at != known_.end();)
    at = in_index(at->second.named) ? std::next(at) : known_.erase(at);
  return known_.size();
}

// A part of a damaged extent has a crc of its own, which must not make it look sound: it gets one
// that cannot be right.
uint32_t DamagedData::append(Stripe& stripe, const Key& key, const Piece& piece) {
  PCACHE_CHECK(!piece.clean && piece.extent.off >= key.off &&
               piece.extent.end() <= key.off + key.len);
  Key part = key;
  part.off = piece.extent.off;
  part.len = static_cast<uint32_t>(piece.extent.len);
  part.cache_seg_off = piece.pos.off;
  if (parts_.data_crc && part.len != key.len) {
    const auto crc = media_crc(parts_.pmem, parts_.segments, piece.pos, part.len);
    part.data_crc = ~crc.value_or(0);
    parts_.index.set_crc(piece.extent, piece.pos, part.data_crc);
  }
  parts_.segments.add_refs(piece.pos.seg, 1);
  parts_.stripes.append(stripe, part);
  return part.data_crc;
}

void DamagedData::keep(const Key& key, uint64_t* found) {
  PCACHE_CHECK(!(key.flags & media::kKeyClean));  // clean data is on the backing device
  Stripe& stripe = parts_.stripes.of(key.off);
  StripeLock lock(stripe);
  const bool was_known = known_.contains(id_of(key));
  bool is_whole = false;  // or of which parts are left
  Extent left{key.off, key.len};
  while (left.len > 0) {
    const CachePos pos = place_of(key) + static_cast<uint32_t>(left.off - key.off);
    const auto piece = find({left, pos, key.seg_gen, key.data_crc});
    if (!piece) break;
    left = {piece->extent.end(), left.end() - piece->extent.end()};
    const Id id{piece->pos.seg.v, piece->pos.off, key.seg_gen};
    const bool unproven = !parts_.data_crc && piece->extent.len != key.len;
    // All memory first: what is noted as appended is, or its data is lost when dirty_tail passes.
    if (!parts_.stripes.prepare(stripe)) throw std::bad_alloc();
    const bool to_append = kept_.insert(id).second;
    bool is_new = false;
    Known* known = nullptr;
    try {
      const auto [at, inserted] = known_.try_emplace(id);
      known = &at->second;
      is_new = inserted;
    } catch (const std::bad_alloc&) {
      if (to_append) kept_.erase(id);
      throw;
    }
    const uint32_t crc = to_append ? append(stripe, key, *piece) : piece->crc;
    *known = {{piece->extent, piece->pos, key.seg_gen, crc}, unproven};
    is_whole |= id == id_of(key);
    if (was_known || !is_new) continue;
    ++*found;
    parts_.messages.print(
        LogLevel::kError,
        "dirty data of range %llu+%llu is damaged (segment %u:%u): it is not written back, and "
        "reads of it fail",
        static_cast<unsigned long long>(piece->extent.off),
        static_cast<unsigned long long>(piece->extent.len), piece->pos.seg.v, piece->pos.off);
  }
  if (was_known && !is_whole) known_.erase(id_of(key));
}

}  // namespace pcache
