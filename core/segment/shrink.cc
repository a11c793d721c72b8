// SPDX-License-Identifier: GPL-2.0-or-later
#include "segment/shrink.h"

#include <algorithm>

#include "format/codec.h"
#include "segment/grow.h"

namespace pcache {

using namespace media;

namespace {

Status check_chain(const DeviceFrame& frame, uint32_t seg_num) {
  for (size_t i = 0; i < frame.chain.size() && i < seg_num; i++)
    if (frame.chain[i] >= seg_num)
      return make_error(EINVAL,
                        "segment chain: number %zu is segment %u, which would go: the chain is in "
                        "another order than formatting makes it",
                        i, frame.chain[i]);
  return {};
}

Status store_tail_again(Pmem& pmem, const ReplicaPlace& place, const char* name, uint32_t seg_num) {
  Replicated<TailPos> record(place);
  const auto tail = record.load(pmem);
  if (!tail) return make_error(EUCLEAN, "%s: neither replica is valid", name);
  if (tail->cache_seg_id >= seg_num)
    return make_error(EINVAL, "%s is in segment %u, which would go", name, tail->cache_seg_id);
  if (!record.write(pmem, *tail))
    return make_error(EIO, "%s: media error: the cache is as large as before", name);
  return {};
}

}  // namespace

Status shrink_cache(Pmem& pmem, DeviceFrame& frame, uint32_t seg_num,
                    const std::function<Status()>& sync) {
  PCACHE_CHECK(seg_num > 0 && seg_num < frame.seg_num);
  if (auto fits = check_chain(frame, seg_num); !fits) return fits;
  persist_frame(pmem, frame.chain);
  if (auto done = store_tail_again(pmem, key_tail_place(), "key_tail", seg_num); !done) return done;
  if (auto done = store_tail_again(pmem, dirty_tail_place(), "dirty_tail", seg_num); !done)
    return done;
  frame.info.n_segs = std::min(frame.info.n_segs, seg_num);
  for (int replica = 0; replica < 2; replica++) {
    if (!frame.info_record.write(pmem, make_cache_info(frame.info)))
      return make_error(EIO, "cache_info: media error: it still has the segments that would go");
    pmem.fence();
  }
  if (auto synced = sync ? sync() : Status(); !synced) return synced;
  frame.chain.resize(frame.info.n_segs);
  if (auto done = store_seg_num(pmem, frame, seg_num); !done) return done;
  pmem.fence();
  return sync ? sync() : Status();
}

}  // namespace pcache
