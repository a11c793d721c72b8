// SPDX-License-Identifier: GPL-2.0-or-later
// What of a cache's size changes while it is attached.
#include "segment/grow.h"

#include <new>
#include <vector>

#include "base/mutants.h"
#include "cache/cache.h"

namespace pcache {

namespace {

unsigned long long ull(uint64_t n) { return n; }

}  // namespace

// Nothing: there is none to write, or the first page is somebody else's.
Result<std::optional<media::Identity>> Cache::identity_of_size(uint64_t bytes) const {
  if (!first_page_is_ours_) return std::optional<media::Identity>();
  auto identity = load_identity(*devices_.pmem);
  if (!identity || !identity.value()) return identity;
  return std::optional(with_size(*identity.value(), bytes));
}

Result<Cache::Resized> Cache::resize_backing() {
  if (auto writable = refuse_if_readonly("resize-backing"); !writable) return writable.error();
  if (options_.front)
    return make_error(EOPNOTSUPP,
                      "resize-backing: the cache was opened with role=front, and its backend has "
                      "the disk: end both, and attach once with role=both");
  MutexLock lock(frame_mu_);
  const uint64_t before = logical_bytes();
  const auto measured = devices_.backing->measure_again();
  if (!measured) return measured.error();
  const uint64_t now = measured.value();
  if (now < before)
    return make_error(EINVAL,
                      "the backing device has %llu bytes, and the cache uses %llu of it: make it "
                      "as large again, an attached cache is not made smaller",
                      ull(now), ull(before));
  if (now == before) return Resized{before, now};
  if (auto synced = devices_.backing->sync_size(); !synced) return synced.error();
  auto identity = identity_of_size(now);
  if (!identity) return identity.error();
  if (auto grown = recovered_.index->grow(now); !grown) return grown.error();
  if (hazard(Hazard::kGrownBeforeIdentity)) requests_->grow(now);
  if (identity.value())
    if (auto written = write_identity(*devices_.pmem, *identity.value()); !written)
      return make_error(written.error().code,
                        "%s; the cache goes on with %llu bytes of the backing device, and may not "
                        "say any more which one it belongs to: pcachectl identity set records "
                        "that, as does the next attach with role=both",
                        written.error().text.c_str(), ull(before));
  requests_->grow(now);
  messages_.print(LogLevel::kNotice,
                  "the backing device has grown from %llu to %llu bytes: all of it is used",
                  ull(before), ull(now));
  return Resized{before, now};
}

// Nothing is to be changed: what it has.
Result<uint64_t> Cache::size_to_grow_to(uint64_t bytes) {
  const Pmem& pmem = *devices_.pmem;
  const uint64_t has = pmem.size_bytes(), wanted = bytes != 0 ? bytes : pmem.file_bytes();
  const uint32_t now = segments().size(), segments = segments_of_device(wanted);
  if (segments < now)
    return make_error(EINVAL,
                      "the cache has %u segments of 16 MiB, and %llu bytes are %u of them: an "
                      "attached cache is not made smaller; end it, and resize it then",
                      now, ull(wanted), segments);
  const uint32_t known = seg_num();
  if (segments < known)
    return make_error(EINVAL,
                      "a resize that was interrupted has begun to make it %u segments of 16 MiB, "
                      "and %llu bytes are %u of them: %llu bytes or more",
                      known, ull(wanted), segments, ull(bytes_of_segments(known)));
  if (segments == now && bytes > has)
    return make_error(EINVAL,
                      "%llu bytes are %u segments of 16 MiB, as many as the cache has: %llu bytes "
                      "or more",
                      ull(wanted), segments, ull(bytes_of_segments(now + 1)));
  if (segments == now || wanted <= has) return wanted;
  if (pmem.kind() == PmemKind::kDevdax)
    return make_error(EINVAL, "the device has %llu bytes, and cannot be made larger", ull(has));
  if (wanted > pmem.most_bytes())
    return make_error(EFBIG,
                      "the cache has address space for %llu bytes, and needs %llu: end it, and "
                      "resize it then%s",
                      ull(pmem.most_bytes()), ull(wanted),
                      pmem.most_bytes() == has ? " (ulimit -v leaves it none to grow into)" : "");
  return wanted;
}

Result<Cache::Grown> Cache::resize(uint64_t bytes) try {
  if (auto writable = refuse_if_readonly("resize"); !writable) return writable.error();
  if (options_.front)
    return make_error(EOPNOTSUPP,
                      "resize: the cache was opened with role=front, and its backend goes by its "
                      "size, too: end both, and resize it then");
  MutexLock lock(grow_mu_);
  const uint32_t before = segments().size();
  const auto size = size_to_grow_to(bytes);
  if (!size) return size.error();
  if (segments_of_device(size.value()) == before) return Grown{before, before};
  if (auto grown = grow_to(size.value()); !grown) return grown.error();
  const uint32_t now = segments().size();
  messages_.print(LogLevel::kNotice, "the cache has grown from %u to %u segments of 16 MiB", before,
                  now);
  return Grown{before, now};
} catch (const std::bad_alloc&) {
  return out_of_memory();
}

Status Cache::grow_to(uint64_t bytes) {
  const uint32_t segments = segments_of_device(bytes);
  Pmem& pmem = *devices_.pmem;
  SegmentTable& table = *recovered_.segments;
  if (bytes > pmem.size_bytes())
    if (auto grown = pmem.grow(bytes); !grown) return grown;
  if (auto room = table.make_room(segments); !room) return room;
  if (auto room = retention_->make_room(pmem.size_bytes()); !room) return room;
  return store_grown(segments);
}

Status Cache::store_grown(uint32_t segments) {
  SegmentTable& table = *recovered_.segments;
  const size_t before = table.size();
  uint32_t gc_percent = 0;
  const auto publish = [&](std::span<const uint32_t> added) {
    table.add(added, log_reserve_segments(segments));
  };
  if (hazard(Hazard::kGrownBeforeCounted)) {
    std::vector<uint32_t> added;
    for (auto i = static_cast<uint32_t>(before); i < segments; i++) added.push_back(i);
    publish(added);
  }
  {
    MutexLock lock(frame_mu_);
    DeviceFrame grown = frame_;
    if (auto stored = grow_cache(*devices_.pmem, grown, segments); !stored) return stored;
    PCACHE_CHECK(grown.chain.size() == segments && grown.info.n_segs == segments);
    // In the other replica, too: data goes to the new segments at once, and an older one must not
    // serve then. One that cannot be written is bad, and does not.
    (void)write_cache_info(*devices_.pmem, grown);
    // The rest of the frame is read without the lock.
    frame_.chain = std::move(grown.chain);
    frame_.seg_num = grown.seg_num;
    frame_.info.n_segs = grown.info.n_segs;
    frame_.info_record = grown.info_record;
    gc_percent = frame_.info.gc_percent;
  }
  zeros_->set_most(uint64_t{segments} * media::kSegDataBytes);  // before who waits is woken
  retention_->set_capacity(kept_bytes(segments, gc_percent));
  if (!hazard(Hazard::kGrownBeforeCounted))
    publish(std::span<const uint32_t>(frame_.chain).subspan(before));
  try {
    requests_->set_heads(data_heads(segments));
  } catch (const std::bad_alloc&) {
    // Then queues that come later share what there are.
  }
  return {};
}

}  // namespace pcache
