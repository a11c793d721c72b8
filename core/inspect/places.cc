// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/places.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "inspect/frame_survey.h"
#include "segment/media_crc.h"

namespace pcache {

void Places::add(const media::Key& key) {
  PCACHE_CHECK(!ksets_.empty());
  claims_.push_back({{SegId{key.cache_seg_id}, key.cache_seg_off},
                     key.len,
                     key.data_crc,
                     key.off,
                     static_cast<uint32_t>(ksets_.size() - 1),
                     ksets_.back().keys++,
                     (key.flags & media::kKeyZeros) != 0});
}

bool Places::is_copy(uint32_t kset, const Repeats& repeats) const {
  const uint32_t keys = ksets_[kset].keys;
  return keys > 1 && keys == ksets_[repeats.of].keys && keys == repeats.in_place;
}

void Places::judge(const Pmem& pmem, const SegmentTable& segments, bool with_crc,
                   Findings* findings) {
  std::map<uint32_t, Repeats> repeats;  // by kset
  std::optional<std::tuple<CachePos, uint32_t, uint32_t>> judged;
  bool judged_sound = false;
  const auto sound = [&](const Claim& claim) {
    const std::tuple what(claim.pos, claim.len, claim.crc);
    if (judged == what) return judged_sound;
    const auto crc = media_crc(pmem, segments, claim.pos, claim.len);
    judged = what;
    return judged_sound = crc && (!with_crc || *crc == claim.crc);
  };
  std::sort(claims_.begin(), claims_.end(), [](const Claim& a, const Claim& b) {
    return std::tie(a.pos, a.kset) < std::tie(b.pos, b.kset);
  });
  const Claim* last = nullptr;  // of the earlier ones the one with the furthest end
  for (const Claim& claim : claims_) {
    if (last && last->pos.seg == claim.pos.seg && claim.pos.off < last->pos.off + last->len) {
      const bool same = claim.off - claim.pos.off == last->off - last->pos.off;
      const auto& [first, again] =
          std::minmax(*last, claim, [](const Claim& a, const Claim& b) { return a.kset < b.kset; });
      if (!same && claim.zeros && last->zeros) {
        // They share the place.
      } else if (!same)
        findings->add(Severity::kLost, "shared-data", "segment " + position_text(claim.pos),
                      "two live keys name it: for the ranges %llu+%u and %llu+%u",
                      static_cast<unsigned long long>(last->off), last->len,
                      static_cast<unsigned long long>(claim.off), claim.len);
      else if ((with_crc && repeats.contains(again.kset)) || sound(first)) {
        Repeats& found = repeats.try_emplace(again.kset, Repeats{first.kset, 0, 0}).first->second;
        found.keys++;
        found.in_place += first.kset == found.of && first.index == again.index &&
                          first.pos == again.pos && first.len == again.len;
      }
    }
    if (!last || last->pos.seg != claim.pos.seg ||
        claim.pos.off + claim.len > last->pos.off + last->len)
      last = &claim;
  }
  for (const auto& [kset, what] : repeats) {
    const std::string where = "log at " + position_text(ksets_[kset].at);
    const std::string before = position_text(ksets_[what.of].at);
    const auto keys = static_cast<unsigned long long>(what.keys);
    if (with_crc || is_copy(kset, what))
      findings->add(Severity::kLost, "repeated-keys", where,
                    "%llu of its keys the log has had before, first at %s, and their data is "
                    "sound: no cache writes that; a kset stands there twice, and what it was "
                    "copied over is lost",
                    keys, before.c_str());
    else
      findings->add(Severity::kFinding, "keys-appended-again", where,
                    "%llu of its keys the log has had before, first at %s: appended again because "
                    "their data could not be read then; it can be read now, and may not be what "
                    "was written",
                    keys, before.c_str());
  }
}

}  // namespace pcache
