// SPDX-License-Identifier: GPL-2.0-or-later
#include "keylog/log_cursor.h"

#include <algorithm>
#include <cstring>

#include "base/mutants.h"
#include "keylog/kset_search.h"
#include "segment/media_crc.h"

namespace pcache {

using media::KsetHeader;

LogCursor::LogCursor(const Pmem& pmem, const SegmentTable& segments, CachePos from,
                     const Options& options)
    : pmem_(pmem),
      segments_(segments),
      from_(from),
      pos_(from),
      options_(options),
      passed_(segments.size()) {
  PCACHE_CHECK(from.seg.v < segments.size() && from.off <= media::kSegDataBytes);
  pass(from.seg);
}

void LogCursor::pass(SegId seg) {
  if (seg.v >= passed_.size()) passed_.resize(segments_.size());
  passed_[seg.v] = true;
}

// Loads only as much as the header says: most ksets of a synchronous writer hold one key.
std::span<const std::byte> LogCursor::load(CachePos at, std::byte* buffer, bool* unreadable) const {
  PCACHE_DCHECK(at.off <= media::kSegDataBytes);
  uint32_t room = std::min(media::kSegDataBytes - at.off, media::kMaxKsetBytes);
  if (hazard(Hazard::kReadPastSegment)) room = media::kMaxKsetBytes;
  if (room < sizeof(KsetHeader)) return {};
  *unreadable = !pmem_.load(buffer, segments_.media(at), sizeof(KsetHeader));
  if (*unreadable) return {};
  KsetHeader header;
  memcpy(&header, buffer, sizeof header);
  if (header.magic != media::kKsetMagic || header.flags & media::kKsetLast ||
      header.key_num > media::kKeysPerKset)
    return {buffer, sizeof header};
  const uint32_t bytes = std::min(kset_bytes(header.key_num), room);
  *unreadable = !pmem_.load(buffer + sizeof header, segments_.media(at) + sizeof header,
                            bytes - sizeof header);
  return {buffer, bytes};
}

Result<LogItem> LogCursor::next() {
  if (pos_ == options_.until) {
    LogItem end;
    end.pos = end.next = pos_;
    return end;
  }
  bool unreadable = false;
  const auto bytes = load(pos_, buffer_, &unreadable);
  if (unreadable) return past_unreadable();
  const KsetState state = classify_kset(bytes);
  if (state == KsetState::kNone || state == KsetState::kBroken) return end_or_damage();
  return read_kset(state);
}

Result<LogItem> LogCursor::read_kset(KsetState state) {
  LogItem item;
  item.pos = pos_;
  KsetHeader header;
  memcpy(&header, buffer_, sizeof header);
  if (state == KsetState::kLast) {
    item.kind = LogItem::Kind::kLast;
    item.next = CachePos{SegId{header.key_num}, 0};
    if (header.key_num >= segments_.size())
      return make_error(EUCLEAN, "log at segment %u:%u: LAST kset leads to segment %u of %u",
                        pos_.seg.v, pos_.off, header.key_num, segments_.size());
    if (passed(SegId{header.key_num}) && !hazard(Hazard::kLogCycle))
      return make_error(EUCLEAN,
                        "log at segment %u:%u: LAST kset leads back to segment %u: a cycle",
                        pos_.seg.v, pos_.off, header.key_num);
    pass(SegId{header.key_num});
  } else {
    // Every writer leaves room for the next header: without that it would be outside the segment.
    if (kset_bytes(header.key_num) > media::kSegDataBytes - sizeof header - pos_.off)
      return make_error(EUCLEAN, "log at segment %u:%u: kset leaves no room for a header behind it",
                        pos_.seg.v, pos_.off);
    PCACHE_DCHECK(header.key_num > 0 && header.key_num <= media::kKeysPerKset);
    item.kind = LogItem::Kind::kKeys;
    item.keys = {reinterpret_cast<const media::Key*>(buffer_ + sizeof header), header.key_num};
    item.crc = header.crc;
    item.same_epoch = header.flags & media::kKsetSameEpoch;
    item.passes = passed_by(header.flags);
    item.passes_unchecked = !item.passes && header.flags & media::kKsetPasses;
    item.next = pos_ + kset_bytes(header.key_num);
  }
  // Each step leads on in the segment or to one not yet passed, so the log comes to an end.
  PCACHE_CHECK(item.next.seg != pos_.seg || item.next.off > pos_.off || hazard(Hazard::kLogCycle));
  pos_ = item.next;
  return item;
}

// Of a kset that names a position: one to which the log has led. Behind key_tail, or from
// dirty_tail on, it may have led there before.
std::optional<uint64_t> LogCursor::lost_pass_flags(std::span<const std::byte> window) const {
  KsetHeader header;
  memcpy(&header, window.data(), sizeof header);
  if (header.key_num == 0 || header.key_num > media::kKeysPerKset ||
      kset_bytes(header.key_num) > window.size())
    return std::nullopt;
  const LostPassFlags lost(window);
  LogCursor before(pmem_, segments_, from_, {.until = pos_});
  for (CachePos end = from_;;) {
    for (const bool same_epoch : {true, false})
      if (const auto flags = lost.find(end, same_epoch)) return flags;
    const auto item = before.next();
    if (!item || item.value().kind == LogItem::Kind::kEnd) return std::nullopt;
    end = item.value().next;
  }
}

// Whether the bytes become a valid kset if one field of the header is put right. Then it was a
// whole kset, and that field was damaged: by chance no crc over the rest fits.
bool LogCursor::one_field_was_damaged(std::span<std::byte> window) const {
  KsetHeader found;
  memcpy(&found, window.data(), sizeof found);
  const auto valid = [&](const KsetHeader& header) {
    memcpy(window.data(), &header, sizeof header);
    const KsetState state = classify_kset(window);
    return state == KsetState::kKeys || state == KsetState::kLast;
  };
  KsetHeader header = found;
  header.magic = media::kKsetMagic;
  if (valid(header)) return true;
  header = found;
  for (header.flags = 0; header.flags <= media::kKsetSameEpoch; header.flags++)
    if (known_kset_flags(header.flags) && valid(header)) return true;
  // Of those with a position.
  const auto flip = [&header](int bit) { header.flags ^= uint64_t{1} << bit; };
  header = found;
  for (int bit = 0; bit < 64; bit++)
    for (int other = bit; other < 64; other++) {  // the same: one bit alone
      flip(bit);
      if (other != bit) flip(other);
      if (known_kset_flags(header.flags) && valid(header)) return true;
      header.flags = found.flags;
    }
  if (const auto flags = lost_pass_flags(window)) {
    header.flags = *flags;
    if (valid(header)) return true;
  }
  header = found;
  const uint32_t most = found.flags & media::kKsetLast ? segments_.size() - 1 : media::kKeysPerKset;
  for (header.key_num = 0; header.key_num <= most; header.key_num++)
    if (valid(header)) return true;
  memcpy(window.data(), &found, sizeof found);
  return false;
}

// Our own commit writes the first header last, over zeros, in 8-byte words: in a torn one, one of
// the first two words is still zero. A header that is whole and wrong was damaged later, or torn by
// the kernel target, which writes header and keys together; then no valid kset follows it.
Result<LogItem> LogCursor::end_or_damage() {
  LogItem item;
  item.pos = item.next = pos_;
  const uint32_t room = std::min(media::kSegDataBytes - pos_.off, media::kMaxKsetBytes);
  if (room < sizeof(KsetHeader)) return item;
  KsetHeader header;
  if (!pmem_.load(&header, segments_.media(pos_), sizeof header)) return past_unreadable();
  const uint64_t first_word = uint64_t{header.key_num} << 32 | header.crc;
  item.torn = first_word != 0 || header.magic != 0 || header.flags != 0;
  // A crash may leave this of a group of our own: a torn header, with valid ksets behind it.
  if (first_word == 0 || header.magic == 0) return item;
  if (const auto impossible = sealed_with_wrong_count(header)) return *impossible;
  if (!pmem_.load(buffer_, segments_.media(pos_), room)) return past_unreadable();
  if (one_field_was_damaged({buffer_, room}))
    return past_damage(
        make_error(EUCLEAN,
                   "log at segment %u:%u: one field of the kset's header is damaged: the log "
                   "does not end here",
                   pos_.seg.v, pos_.off),
        std::nullopt);
  if (const auto follower = live_follower(header))
    return past_damage(
        make_error(EUCLEAN,
                   "log at segment %u:%u: kset fails its crc and a valid one follows at "
                   "segment %u:%u: acknowledged data is behind it",
                   pos_.seg.v, pos_.off, follower->seg.v, follower->off),
        follower);
  return item;
}

Result<LogItem> LogCursor::past_unreadable() {
  const Error damage = make_error(EIO, "log at segment %u:%u: media error", pos_.seg.v, pos_.off);
  if (!options_.salvage) return damage;
  const auto follower = find_kset(pmem_, segments_, pos_ + sizeof(KsetHeader));
  if (!follower) return damage;
  return past_damage(
      make_error(EIO,
                 "log at segment %u:%u: media error; it is followed again from segment %u:%u on",
                 pos_.seg.v, pos_.off, follower->seg.v, follower->off),
      follower);
}

// Without a follower, buffer_ has the kset with its field put right.
Result<LogItem> LogCursor::past_damage(const Error& damage, std::optional<CachePos> follower) {
  if (!options_.salvage) return damage;
  if (!follower) {
    const uint32_t room = std::min(media::kSegDataBytes - pos_.off, media::kMaxKsetBytes);
    const KsetState mended_state = classify_kset({buffer_, room});
    PCACHE_CHECK(mended_state == KsetState::kKeys || mended_state == KsetState::kLast);
    auto item = read_kset(mended_state);
    if (!item) return item;
    LogItem mended = item.take();
    mended.damage = damage;
    return mended;
  }
  LogItem lost;
  lost.kind = LogItem::Kind::kLost;
  lost.pos = pos_;
  lost.next = pos_ = *follower;
  lost.damage = damage;
  PCACHE_CHECK(follower->seg.v < segments_.size());
  pass(follower->seg);
  return lost;
}

// No crash makes a crc that fits: this was written on purpose.
std::optional<Error> LogCursor::sealed_with_wrong_count(const KsetHeader& header) const {
  if (header.magic != media::kKsetMagic || header.flags & media::kKsetLast) return std::nullopt;
  if (header.key_num > 0 && header.key_num <= media::kKeysPerKset) return std::nullopt;
  const uint64_t bytes = sizeof header + uint64_t{header.key_num} * sizeof(media::Key);
  if (bytes > media::kSegDataBytes - pos_.off) return std::nullopt;
  const auto crc = media_crc(pmem_, segments_, pos_ + media::kCrcStart,
                             static_cast<uint32_t>(bytes - media::kCrcStart));
  if (crc != header.crc) return std::nullopt;
  return make_error(EUCLEAN,
                    "log at segment %u:%u: a kset of %u keys under a valid crc, 1..%u can be",
                    pos_.seg.v, pos_.off, header.key_num, media::kKeysPerKset);
}

std::optional<CachePos> LogCursor::live_follower(const KsetHeader& header) const {
  if (header.flags & media::kKsetLast) {
    const CachePos follower{SegId{header.key_num}, 0};
    if (header.key_num >= segments_.size() || passed(follower.seg)) return std::nullopt;
    return is_of_this_life(follower) ? std::optional(follower) : std::nullopt;
  }
  if (header.key_num == 0 || header.key_num > media::kKeysPerKset ||
      kset_bytes(header.key_num) > media::kSegDataBytes - pos_.off)
    return std::nullopt;
  const CachePos follower = pos_ + kset_bytes(header.key_num);
  return is_of_this_life(follower) ? std::optional(follower) : std::nullopt;
}

// The ksets of a segment's earlier life name data of older generations.
bool LogCursor::is_of_this_life(CachePos at) const {
  alignas(8) std::byte buffer[media::kMaxKsetBytes];
  for (;;) {
    bool unreadable = false;
    const KsetState state = classify_kset(load(at, buffer, &unreadable));
    if (state == KsetState::kLast) return true;
    if (state != KsetState::kKeys) return false;
    KsetHeader header;
    memcpy(&header, buffer, sizeof header);
    const auto* keys = reinterpret_cast<const media::Key*>(buffer + sizeof header);
    for (uint32_t i = 0; i < header.key_num; i++)
      if (keys[i].cache_seg_id < segments_.size() &&
          keys[i].seg_gen >= segments_.generation(SegId{keys[i].cache_seg_id}))
        return true;
    at = at + kset_bytes(header.key_num);
  }
}

}  // namespace pcache
