// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/options.h"

#include <algorithm>

#include "base/mutants.h"
#include "blockdev/nbd_uri.h"
#include "cache/option_table.h"
#include "pmem/persist.h"

namespace pcache {

namespace {

static_assert(static_cast<int>(policy::PolicyKind::kFifo) == PCACHE_POLICY_FIFO &&
              static_cast<int>(policy::PolicyKind::kSecondChance) == PCACHE_POLICY_SECOND_CHANCE &&
              static_cast<int>(policy::PolicyKind::kAdaptive) == PCACHE_POLICY_ADAPTIVE);
static_assert(static_cast<int>(CacheMode::kWriteback) == PCACHE_MODE_WRITEBACK &&
              static_cast<int>(CacheMode::kWritethrough) == PCACHE_MODE_WRITETHROUGH &&
              static_cast<int>(CacheMode::kWritearound) == PCACHE_MODE_WRITEAROUND &&
              static_cast<int>(CacheMode::kWriteonly) == PCACHE_MODE_WRITEONLY &&
              static_cast<int>(CacheMode::kPassthrough) == PCACHE_MODE_PASSTHROUGH);

Status check_cache_size(const pcache_options& raw) {
  if (raw.cache_size == 0 || raw.emulate_pmem) return {};
  return make_error(
      EINVAL, "option cache_size: only files can be created or extended: it needs emulate_pmem=1");
}

// Refuses options that would have to write.
Status check_readonly(const pcache_options& raw) {
  if (!raw.readonly) return {};
  const char* against = raw.drain                             ? "drain"
                        : raw.gc_percent != PCACHE_FROM_MEDIA ? "gc_percent"
                        : raw.cache_mode != PCACHE_FROM_MEDIA ? "cache_mode"
                                                              : nullptr;
  if (!against) return {};
  return make_error(EINVAL,
                    "option %s: contradicts readonly=1, with which nothing is written: leave one "
                    "of the two out",
                    against);
}

// Refuses options of what the backend alone does.
Status check_role(const pcache_options& raw) {
  const bool starts_backend = raw.backend && *raw.backend;
  if (raw.role != PCACHE_ROLE_FRONT) {
    if (!starts_backend) return {};
    return make_error(EINVAL,
                      "option backend: contradicts role=both, which has no other side: give "
                      "role=front, or leave it out");
  }
  const char* against = raw.drain                             ? "drain"
                        : raw.gc_percent != PCACHE_FROM_MEDIA ? "gc_percent"
                        : raw.cache_mode != PCACHE_FROM_MEDIA ? "cache_mode"
                        : raw.cache_size != 0                 ? "cache_size"
                        : raw.readonly                        ? "readonly"
                                                              : nullptr;
  if (against)
    return make_error(EINVAL,
                      "option %s: contradicts role=front, whose backend has the disk and the "
                      "cache's own records: leave it out",
                      against);
  if (starts_backend || is_nbd_uri(raw.backing_path)) return {};
  return make_error(EINVAL,
                    "option backing_path: with role=front the disk is the backend's: expected the "
                    "address of a server of it (nbd://HOST/EXPORT), or backend=auto, found %s",
                    raw.backing_path);
}

}  // namespace

Result<DirtyLimits> dirty_limits_of(const DirtyOptions& options) {
  const int64_t high = options.high_percent;
  const int64_t low = options.low_percent == PCACHE_TEN_BELOW ? std::max<int64_t>(high - 10, 0)
                                                              : options.low_percent;
  if (low > high)
    return make_error(EINVAL,
                      "option dirty_low_percent: %lld is more than dirty_high_percent, which is "
                      "%lld; set it to that at most, or to auto",
                      static_cast<long long>(low), static_cast<long long>(high));
  return DirtyLimits{static_cast<uint32_t>(high), static_cast<uint32_t>(low),
                     static_cast<uint64_t>(options.writeback_rate)};
}

Result<Options> check_options(const pcache_options& given) {
  auto adopted = adopt_options(given);
  if (!adopted) return adopted.error();
  pcache_options raw = adopted.value();
  if (hazard(Hazard::kOptionTruncated)) raw.gc_percent = static_cast<int8_t>(raw.gc_percent);
  Options options;
  if (raw.log)
    options.log = Log([fn = raw.log, ctx = raw.log_ctx](LogLevel level, const char* line) {
      fn(ctx, static_cast<pcache_log_level>(level), line);
    });
  if (!raw.cache_path || !*raw.cache_path)
    return make_error(EINVAL, "option cache_path: missing: the pmem device or file to cache in");
  if (!raw.backing_path || !*raw.backing_path)
    return make_error(EINVAL, "option backing_path: missing: the block device or file to cache");
  if (auto ok = check_option_values(raw); !ok) return ok.error();
  if (auto ok = check_cache_size(raw); !ok) return ok.error();
  if (auto ok = check_readonly(raw); !ok) return ok.error();
  options.pmem.path = raw.cache_path;
  options.pmem.emulate = raw.emulate_pmem;
  options.pmem.create_bytes = static_cast<uint64_t>(raw.cache_size);
  if (raw.persist && *raw.persist) options.pmem.persist = raw.persist;
  options.pmem.prefault = raw.prefault == PCACHE_PREFAULT_ATTACH;
  options.prefault_beside = raw.prefault == PCACHE_PREFAULT_BESIDE;
  options.pmem.huge_pages = raw.huge_pages == PCACHE_HUGE_PAGES_AUTO;
  // Before any device is opened or created.
  if (auto method = find_persist_method(options.pmem.persist); !method) return method.error();
  options.backing.path = raw.backing_path;
  options.backing.io_mode = static_cast<IoMode>(raw.io_mode);
  if (raw.data_crc != PCACHE_FROM_MEDIA) options.data_crc = raw.data_crc;
  if (raw.gc_percent != PCACHE_FROM_MEDIA)
    options.gc_percent = static_cast<uint32_t>(raw.gc_percent);
  if (raw.cache_mode != PCACHE_FROM_MEDIA) options.mode = static_cast<CacheMode>(raw.cache_mode);
  options.force = raw.force;
  options.flush_delay_ms = static_cast<uint32_t>(raw.flush_delay_ms);
  options.writeback_interval_ms = static_cast<uint32_t>(raw.writeback_interval_ms);
  options.drain = raw.drain;
  options.policy = static_cast<policy::PolicyKind>(raw.policy);
  options.seq_cutoff_bytes = static_cast<uint64_t>(raw.seq_cutoff);
  options.read_ahead_bytes = static_cast<uint64_t>(raw.read_ahead);
  if (raw.backend) options.backend = raw.backend;
  if (raw.control) options.control = raw.control;
  options.strict_order = raw.backing_order == PCACHE_ORDER_STRICT;
  options.dirty = {raw.dirty_high_percent, raw.dirty_low_percent, raw.writeback_rate};
  if (auto limits = dirty_limits_of(options.dirty); !limits) return limits.error();
  options.readonly = options.pmem.read_only = options.backing.read_only = raw.readonly;
  if (auto ok = check_role(raw); !ok) return ok.error();
  options.front = raw.role == PCACHE_ROLE_FRONT;
  options.check_at_attach = raw.data_crc_check == PCACHE_CHECK_ATTACH;
  if (options.front) {
    options.pmem.side = PmemSide::kFront;
    options.backing.read_only = true;
  }
  return options;
}

}  // namespace pcache
