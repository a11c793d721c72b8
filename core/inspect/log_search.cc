// SPDX-License-Identifier: GPL-2.0-or-later
#include "inspect/log_search.h"

#include <algorithm>
#include <map>

#include "keylog/kset_search.h"
#include "keylog/log_cursor.h"

namespace pcache {

namespace {

// The part of a log that one segment has.
struct Fragment {
  CachePos first;        // the first kset behind the last one with a dead key
  bool all_live = true;  // no kset was left out
  bool has_live_keys = false;
  bool ends_in_damage = false;
  std::optional<SegId> next;  // by a LAST kset
};

bool starts_with_kset(const Pmem& pmem, const SegmentTable& segments, SegId seg, bool* readable) {
  media::KsetHeader header;
  *readable = pmem.load(&header, segments.media({seg, 0}), sizeof header);
  return *readable && header.magic == media::kKsetMagic;
}

bool is_empty_log(const Pmem& pmem, const SegmentTable& segments, SegId seg) {
  media::KsetHeader header;
  return pmem.load(&header, segments.media({seg, 0}), sizeof header) && header.magic == 0 &&
         header.key_num == 0 && header.crc == 0 && header.flags == 0;
}

std::optional<Fragment> read_fragment(const Pmem& pmem, const SegmentTable& segments, SegId seg) {
  bool readable = false;
  CachePos from{seg, 0};
  if (!starts_with_kset(pmem, segments, seg, &readable)) {
    if (readable) return std::nullopt;
    const auto found = find_kset(pmem, segments, from);
    if (!found) return std::nullopt;
    from = *found;
  }
  Fragment fragment;
  fragment.first = from;
  LogCursor cursor(pmem, segments, from, {.until = std::nullopt, .salvage = true});
  for (;;) {
    const CachePos at = cursor.pos();
    const auto next = cursor.next();
    if (!next) {
      fragment.ends_in_damage = true;
      break;
    }
    const LogItem& item = next.value();
    if (item.kind == LogItem::Kind::kEnd) break;
    if (item.kind == LogItem::Kind::kLast) {
      PCACHE_CHECK(item.next.seg.v < segments.size());
      fragment.next = item.next.seg;
      break;
    }
    if (item.next.seg != at.seg) break;
    if (item.kind != LogItem::Kind::kKeys) continue;
    if (all_keys_live(item.keys, segments)) {
      fragment.has_live_keys = true;
    } else {
      fragment.first = item.next;
      fragment.all_live = fragment.has_live_keys = false;
    }
  }
  return fragment;
}

}  // namespace

std::vector<CachePos> search_log(const Pmem& pmem, const SegmentTable& segments,
                                 const std::vector<SegmentUse>& use) {
  PCACHE_CHECK(use.size() == segments.size());
  std::map<uint32_t, Fragment> fragments;
  for (uint32_t i = 0; i < segments.size(); i++)
    if (use[i] == SegmentUse::kFree)
      if (auto fragment = read_fragment(pmem, segments, SegId{i})) fragments[i] = *fragment;
  // If two segments lead to one, the log left one of them long ago; only the keys tell which.
  std::map<uint32_t, std::vector<uint32_t>> before;
  for (const auto& [seg, fragment] : fragments)
    if (fragment.next) before[fragment.next->v].push_back(seg);
  struct Chain {
    CachePos first;
    bool ends_in_damage = false;
  };
  std::vector<Chain> chains;
  std::vector<bool> taken(segments.size());
  const auto trace_back = [&](uint32_t end) {
    Chain chain;
    bool any_keys = false;
    const auto known = fragments.find(end);
    if (known != fragments.end()) {
      chain = {known->second.first, known->second.ends_in_damage};
      any_keys = known->second.has_live_keys;
      if (!known->second.all_live) {
        if (any_keys) chains.push_back(chain);
        return;
      }
    } else {
      chain.first = {SegId{end}, 0};
    }
    taken[end] = true;
    for (uint32_t at = end;;) {
      std::vector<uint32_t> from;
      for (const uint32_t seg : before[at])
        if (!taken[seg] && fragments[seg].has_live_keys) from.push_back(seg);
      std::erase_if(from,
                    [&](uint32_t seg) { return from.size() > 1 && !fragments[seg].all_live; });
      if (from.size() != 1) break;
      at = from.front();
      taken[at] = true;
      any_keys = true;
      chain.first = fragments[at].first;
      if (!fragments[at].all_live) break;
    }
    if (any_keys) chains.push_back(chain);
  };
  for (const auto& [seg, fragment] : fragments)
    if (!fragment.next) trace_back(seg);
  // The log has reached a segment and has no kset there yet, or what leads there is old.
  const bool end_found = std::any_of(chains.begin(), chains.end(),
                                     [](const Chain& chain) { return !chain.ends_in_damage; });
  for (const auto& [next, from] : before)
    if (!end_found && !fragments.contains(next) && use[next] == SegmentUse::kFree &&
        is_empty_log(pmem, segments, SegId{next}))
      trace_back(next);
  std::stable_sort(chains.begin(), chains.end(), [](const Chain& a, const Chain& b) {
    return a.ends_in_damage && !b.ends_in_damage;
  });
  std::vector<CachePos> starts;
  for (const Chain& chain : chains) starts.push_back(chain.first);
  return starts;
}

}  // namespace pcache
