// SPDX-License-Identifier: GPL-2.0-or-later
#include "background/mover.h"

#include <algorithm>
#include <utility>

#include "base/mutants.h"
#include "segment/media_crc.h"

namespace pcache {

using media::Key;

namespace {

// Stays in the L2 cache between the load and the store.
constexpr uint32_t kCopyBytes = 64 << 10;
// Looked at together.
constexpr size_t kMostPieces = 8;

}  // namespace

Mover::Mover(const Parts& parts, std::function<void()> stored)
    : parts_(parts),
      stored_(std::move(stored)),
      head_(parts.segments, parts.block_bytes),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(kCopyBytes)) {
  moves_.reserve(kMostMoves);
}

bool Mover::move(std::span<const Key> keys) {
  PCACHE_CHECK(moves_.empty());
  bool all = true;
  for (const Key& key : keys) all &= move_key(key);
  return enter_all() && all;
}

bool Mover::move_key(const Key& key) {
  const CachePos pos{SegId{key.cache_seg_id}, key.cache_seg_off};
  bool all = true;
  for (uint64_t at = key.off; at < key.off + key.len;) {
    Piece pieces[kMostPieces];
    Index::Snapshot snapshot;
    const size_t n = parts_.index.lookup({at, key.off + key.len - at}, pieces, &snapshot);
    if (!parts_.index.still_valid(snapshot)) continue;
    for (size_t i = 0; i < n; i++)
      if (pieces[i].kind == Piece::Kind::kHit &&
          pieces[i].pos == pos + static_cast<uint32_t>(pieces[i].extent.off - key.off))
        all &= store(pieces[i]);
    at = pieces[n - 1].extent.end();
  }
  return all;
}

// What of it is stored stays in moves_, also when this says false.
bool Mover::store(const Piece& piece) {
  if (parts_.data_crc && !load(piece)) return false;
  bool all = true;
  for (Piece left = piece; left.extent.len > 0;) {
    if (moves_.size() == kMostMoves) all &= enter_all();
    const Place place = head_.allocate(extent_len(parts_, left.extent.off, left.extent.len));
    if (!place) return false;
    StoredExtent to{left.extent.off, place.len,
                    place.pos.seg.v, place.pos.off,
                    /*crc=*/0,       parts_.segments.view(place.pos.seg).generation()};
    if (!copy(left, place, &to.crc)) return false;
    Move move{left, to};
    move.from.extent.len = place.len;
    moves_.push_back(move);  // has the room
    left.extent = {left.extent.off + place.len, left.extent.len - place.len};
    left.pos = left.pos + place.len;
  }
  return all;
}

// With data_crc what is copied is what was checked, and not read a second time.
bool Mover::load(const Piece& piece) {
  if (piece.whole_len > kCopyBytes) return false;
  return parts_.pmem.load(buffer_.get(), parts_.segments.media(piece.whole_pos), piece.whole_len) &&
         data_crc32c(buffer_.get(), piece.whole_len) == piece.crc;
}

// False: the data cannot be read, or the new place is bad; the place is given back.
bool Mover::copy(const Piece& piece, const Place& to, uint32_t* crc) {
  const auto store = [&](uint32_t at, const std::byte* from, uint32_t n) {
    if (parts_.pmem.store(parts_.segments.media(to.pos + at), from, n)) return true;
    give_up_place(parts_, head_, to.pos.seg);
    return false;
  };
  if (parts_.data_crc) {
    const std::byte* from = buffer_.get() + (piece.pos.off - piece.whole_pos.off);
    *crc = data_crc32c(from, to.len);
    return store(0, from, to.len);
  }
  for (uint32_t at = 0; at < to.len; at += kCopyBytes) {
    const uint32_t n = std::min(kCopyBytes, to.len - at);
    if (!parts_.pmem.load(buffer_.get(), parts_.segments.media(piece.pos + at), n)) {
      parts_.segments.drop_refs(to.pos.seg);
      return false;
    }
    if (!store(at, buffer_.get(), n)) return false;
  }
  return true;
}

bool Mover::is_mapped(const Piece& piece) const {
  for (uint64_t at = piece.extent.off; at < piece.extent.end();) {
    Piece now;
    Index::Snapshot snapshot;
    parts_.index.lookup({at, piece.extent.end() - at}, {&now, 1}, &snapshot);
    if (now.kind == Piece::Kind::kHit &&
        now.pos == piece.pos + static_cast<uint32_t>(at - piece.extent.off))
      return true;
    at = now.extent.end();
  }
  return false;
}

// True: nothing is mapped to the old place any more.
bool Mover::enter(const Move& move, Stripe& stripe, KeyLog::Ticket* ticket) {
  Piece now;
  Index::Snapshot snapshot;
  parts_.index.lookup(move.from.extent, {&now, 1}, &snapshot);
  const bool is_there = now.kind == Piece::Kind::kHit && now.extent == move.from.extent &&
                        now.pos == move.from.pos && now.clean == move.from.clean;
  const uint32_t flags = move.from.clean || hazard(Hazard::kMovedIsClean) ? media::kKeyClean : 0;
  if ((is_there || hazard(Hazard::kMovedOverNewer)) &&
      enter_extent(parts_, stripe, move.to, flags, KsetBuffer::kNobody, ticket)) {
    counters_.moved_keys.add();
    counters_.moved_bytes.add(move.to.len);
    return true;
  }
  parts_.segments.drop_refs(SegId{move.to.seg});
  return !is_mapped(move.from);
}

// False: something is still mapped to one of the old places.
bool Mover::enter_all() {
  if (moves_.empty()) return true;
  parts_.pmem.fence();
  if (stored_) stored_();
  bool all = true;
  KeyLog::Ticket full = 0;
  {
    Stripe& stripe = parts_.stripes.of(moves_.front().to.off);
    BorrowedStripeLock lock(stripe);
    for (const Move& move : moves_) {
      PCACHE_DCHECK(&parts_.stripes.of(move.to.off) == &stripe);
      all &= enter(move, stripe, &full);
    }
  }
  moves_.clear();
  if (full != 0) {
    const Status committed = parts_.log.commit_borrowing(full);
    (void)committed;  // a full log: what waits is committed by make_durable()
  }
  return all;
}

}  // namespace pcache
