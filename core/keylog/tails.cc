// SPDX-License-Identifier: GPL-2.0-or-later
#include "keylog/tails.h"

#include <cstring>
#include <optional>

namespace pcache {

namespace {

bool is_unreadable(const Replicated<media::TailPos>& record) {
  return record.state(0) == ReplicaState::kUnreadable ||
         record.state(1) == ReplicaState::kUnreadable;
}

// Another process may store to the replicas, one after the other. What is read then may look torn,
// or be a mixture of two moments that gives an older position: so it is looked until two looks
// agree.
Result<CachePos> load_one(const Pmem& pmem, Replicated<media::TailPos>& record,
                          const Bounds& bounds, const char* name) {
  constexpr int kMostLooks = 1000;
  std::optional<media::TailPos> pos = record.load(pmem);
  for (int looks = 1; looks < kMostLooks; looks++) {
    const auto again = record.load(pmem);
    const bool same =
        pos.has_value() == again.has_value() && (!pos || memcmp(&*pos, &*again, sizeof *pos) == 0);
    pos = again;
    if (same && (pos || looks > kMostLooks / 10)) break;
    if (is_unreadable(record)) break;  // which no other process is the cause of
  }
  if (!pos)
    return make_error(
        EUCLEAN, "%s at %llu and %llu: neither replica is valid: where the log stands is unknown",
        name, static_cast<unsigned long long>(record.slot(0).v),
        static_cast<unsigned long long>(record.slot(1).v));
  auto checked = validate_position(*pos, bounds);
  if (!checked) return make_error(EUCLEAN, "%s: %s", name, checked.error().text.c_str());
  return checked;
}

}  // namespace

Status Tails::load(const Pmem& pmem, const Bounds& bounds) {
  key_ = Replicated<media::TailPos>(key_tail_place());
  dirty_ = Replicated<media::TailPos>(dirty_tail_place());
  auto key = load_one(pmem, key_, bounds, "key_tail");
  if (!key) return key.error();
  auto dirty = load_one(pmem, dirty_, bounds, "dirty_tail");
  if (!dirty) return dirty.error();
  // A store of the other process ends in no time; a replica that is torn stays so.
  constexpr int kMostLooks = 1000;
  for (int looks = 0; looks < kMostLooks; looks++) {
    dirty_torn_ = dirty_.has_torn(pmem);
    if (!dirty_torn_ || is_unreadable(dirty_)) break;
    if (auto again = load_one(pmem, dirty_, bounds, "dirty_tail"); again) dirty = again.take();
  }
  key_pos_.store(pack(key.value()), std::memory_order_release);
  dirty_pos_.store(pack(dirty.value()), std::memory_order_release);
  return {};
}

Result<CachePos> Tails::read_dirty_tail(const Pmem& pmem, const Bounds& bounds) {
  auto read = load_one(pmem, dirty_, bounds, "dirty_tail");
  // Before anything goes by it: the other process may not have flushed it yet.
  if (read && read.value() != dirty_tail())
    pmem.persist_seen(dirty_.slot(dirty_.newest()), sizeof(media::TailPos));
  return read;
}

Status Tails::set_one(Pmem& pmem, Replicated<media::TailPos>& record, CachePos pos,
                      const CodeSite& site) {
  PCACHE_CHECK(pos.off <= media::kSegDataBytes - sizeof(media::KsetHeader));
  PCACHE_CHECK(pos.off % 8 == 0);  // else the next attach is refused
  media::TailPos tail{};
  tail.cache_seg_id = pos.seg.v;
  tail.seg_off = pos.off;
  if (failed() || !record.write(pmem, tail, site)) {
    failed_.store(true, std::memory_order_relaxed);
    return make_error(EIO,
                      "media error in the page at %llu, which says where the log begins: what is "
                      "written back cannot be recorded, and no space comes free",
                      static_cast<unsigned long long>(media::kCacheCtrlOff));
  }
  pmem.fence(site);
  return {};
}

Status Tails::set_key_tail(Pmem& pmem, CachePos pos) {
  Status set = set_one(pmem, key_, pos);
  if (set) key_pos_.store(pack(pos), std::memory_order_release);
  return set;
}

Status Tails::set_dirty_tail(Pmem& pmem, CachePos pos) {
  Status set = set_one(pmem, dirty_, pos);
  dirty_pos_.store(pack(pos), std::memory_order_release);
  return set;
}

}  // namespace pcache
