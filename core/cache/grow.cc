// SPDX-License-Identifier: GPL-2.0-or-later
// What of a cache's size changes while it is attached.
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

}  // namespace pcache
