// SPDX-License-Identifier: GPL-2.0-or-later
#include "keylog/tails.h"

namespace pcache {

namespace {

Result<CachePos> load_one(const Pmem& pmem, Replicated<media::TailPos>& record,
                          const Bounds& bounds, const char* name) {
  const auto pos = record.load(pmem);
  if (!pos)
    return make_error(
        EUCLEAN, "%s at %llu and %llu: neither replica is valid: where the log stands is unknown",
        name, static_cast<unsigned long long>(record.slot(0).v),
        static_cast<unsigned long long>(record.slot(1).v));
  auto checked = validate_position(*pos, bounds);
  if (!checked) return make_error(EUCLEAN, "%s: %s", name, checked.error().text.c_str());
  return checked;
}

void set_one(Pmem& pmem, Replicated<media::TailPos>& record, CachePos pos) {
  media::TailPos tail{};
  tail.cache_seg_id = pos.seg.v;
  tail.seg_off = pos.off;
  record.write(pmem, tail);
  pmem.fence();
}

}  // namespace

Result<Tails> Tails::load(const Pmem& pmem, const Bounds& bounds) {
  Tails tails;
  tails.key_ = Replicated<media::TailPos>(key_tail_place());
  tails.dirty_ = Replicated<media::TailPos>(dirty_tail_place());
  auto key = load_one(pmem, tails.key_, bounds, "key_tail");
  if (!key) return key.error();
  auto dirty = load_one(pmem, tails.dirty_, bounds, "dirty_tail");
  if (!dirty) return dirty.error();
  tails.key_pos_ = key.value();
  tails.dirty_pos_ = dirty.value();
  return tails;
}

void Tails::set_key_tail(Pmem& pmem, CachePos pos) {
  set_one(pmem, key_, pos);
  key_pos_ = pos;
}

void Tails::set_dirty_tail(Pmem& pmem, CachePos pos) {
  set_one(pmem, dirty_, pos);
  dirty_pos_ = pos;
}

}  // namespace pcache
