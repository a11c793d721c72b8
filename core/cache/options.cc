// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/options.h"

#include "base/mutants.h"
#include "format/media.h"
#include "pmem/persist.h"

namespace pcache {

namespace {

constexpr uint32_t kMaxFlushDelayMs = 60000;
constexpr uint32_t kMaxWritebackIntervalMs = 3600000;

Status check_switch(const char* name, int32_t value, int32_t lowest) {
  if (value >= lowest && value <= 1) return {};
  return make_error(EINVAL, "option %s: %d is not %s", name, value,
                    lowest < 0 ? "0, 1 or -1 (from the media)" : "0 or 1");
}

Status check_numbers(const pcache_options& raw) {
  if (auto ok = check_switch("emulate_pmem", raw.emulate_pmem, 0); !ok) return ok;
  if (auto ok = check_switch("force", raw.force, 0); !ok) return ok;
  if (auto ok = check_switch("data_crc", raw.data_crc, PCACHE_FROM_MEDIA); !ok) return ok;
  const int32_t gc_percent =
      hazard(Hazard::kOptionTruncated) ? static_cast<int8_t>(raw.gc_percent) : raw.gc_percent;
  if (gc_percent < PCACHE_FROM_MEDIA || gc_percent > static_cast<int32_t>(media::kGcPercentMax))
    return make_error(EINVAL, "option gc_percent: %d is not in 0..%u or -1 (from the media)",
                      raw.gc_percent, media::kGcPercentMax);
  if (raw.io_mode < PCACHE_IO_AUTO || raw.io_mode > PCACHE_IO_THREADS)
    return make_error(EINVAL, "option io_mode: %d is not 0 (auto), 1 (io_uring) or 2 (threads)",
                      raw.io_mode);
  if (raw.flush_delay_ms == 0 || raw.flush_delay_ms > kMaxFlushDelayMs)
    return make_error(EINVAL, "option flush_delay_ms: %u is not in 1..%u", raw.flush_delay_ms,
                      kMaxFlushDelayMs);
  if (raw.writeback_interval_ms == 0 || raw.writeback_interval_ms > kMaxWritebackIntervalMs)
    return make_error(EINVAL, "option writeback_interval_ms: %u is not in 1..%u",
                      raw.writeback_interval_ms, kMaxWritebackIntervalMs);
  if (auto ok = check_switch("drain", raw.drain, 0); !ok) return ok;
  if (raw.prefault < PCACHE_PREFAULT_BESIDE || raw.prefault > PCACHE_PREFAULT_ATTACH)
    return make_error(EINVAL, "option prefault: %d is not 0 (beside) or 1 (attach)", raw.prefault);
  if (raw.cache_size != 0 && !raw.emulate_pmem)
    return make_error(
        EINVAL,
        "option cache_size: only files can be created or extended: it needs emulate_pmem=1");
  if (raw.cache_size != 0 && raw.cache_size < media::kMinDeviceBytes)
    return make_error(EINVAL, "option cache_size: %llu bytes, at least %llu (512 MiB) are needed",
                      static_cast<unsigned long long>(raw.cache_size),
                      static_cast<unsigned long long>(media::kMinDeviceBytes));
  return {};
}

// What would have to be written.
Status check_readonly(const pcache_options& raw) {
  if (auto ok = check_switch("readonly", raw.readonly, 0); !ok || !raw.readonly) return ok;
  const char* against = raw.drain                             ? "drain"
                        : raw.gc_percent != PCACHE_FROM_MEDIA ? "gc_percent"
                                                              : nullptr;
  if (!against) return {};
  return make_error(EINVAL,
                    "option %s: contradicts readonly=1, with which nothing is written: leave one "
                    "of the two out",
                    against);
}

}  // namespace

Result<Options> check_options(const pcache_options& raw) {
  if (raw.size != sizeof raw)
    return make_error(
        EINVAL,
        "pcache_options: size is %u, this library's is %zu: call pcache_options_init() "
        "and build against its pcache.h",
        raw.size, sizeof raw);
  Options options;
  if (raw.log)
    options.log = Log([fn = raw.log, ctx = raw.log_ctx](LogLevel level, const char* line) {
      fn(ctx, static_cast<pcache_log_level>(level), line);
    });
  if (!raw.cache_path || !*raw.cache_path)
    return make_error(EINVAL, "option cache_path: missing: the pmem device or file to cache in");
  if (!raw.backing_path || !*raw.backing_path)
    return make_error(EINVAL, "option backing_path: missing: the block device or file to cache");
  if (auto ok = check_numbers(raw); !ok) return ok.error();
  if (auto ok = check_readonly(raw); !ok) return ok.error();
  options.pmem.path = raw.cache_path;
  options.pmem.emulate = raw.emulate_pmem;
  options.pmem.create_bytes = raw.cache_size;
  if (raw.persist && *raw.persist) options.pmem.persist = raw.persist;
  options.pmem.prefault = raw.prefault == PCACHE_PREFAULT_ATTACH;
  options.prefault_beside = raw.prefault == PCACHE_PREFAULT_BESIDE;
  // Before any device is opened, let alone created.
  if (auto method = find_persist_method(options.pmem.persist); !method) return method.error();
  options.backing.path = raw.backing_path;
  options.backing.io_mode = static_cast<IoMode>(raw.io_mode);
  if (raw.data_crc != PCACHE_FROM_MEDIA) options.data_crc = raw.data_crc;
  if (raw.gc_percent != PCACHE_FROM_MEDIA)
    options.gc_percent = hazard(Hazard::kOptionTruncated) ? static_cast<uint8_t>(raw.gc_percent)
                                                          : static_cast<uint32_t>(raw.gc_percent);
  options.force = raw.force;
  options.flush_delay_ms = raw.flush_delay_ms;
  options.writeback_interval_ms = raw.writeback_interval_ms;
  options.drain = raw.drain;
  options.readonly = options.pmem.read_only = options.backing.read_only = raw.readonly;
  return options;
}

}  // namespace pcache
