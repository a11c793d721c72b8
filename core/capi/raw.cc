// SPDX-License-Identifier: GPL-2.0-or-later
// pcache_raw.h: the measuring bound, straight over Pmem.
#include <algorithm>
#include <cstring>
#include <memory>

#include "base/sized.h"
#include "capi/error.h"
#include "format/media.h"
#include "pcache_raw.h"
#include "pmem/pmem.h"

struct pcache_raw {
  std::unique_ptr<pcache::Pmem> pmem;
};

using pcache::fail;
using pcache::guarded;
using pcache::make_error;
using pcache::MediaOff;

// The size of the first version of these structs: every later one has at least this.
constexpr uint32_t kLeastRawBytes = 48;
static_assert(sizeof(pcache_raw_options) >= kLeastRawBytes);

// All defaults are zeros.
PCACHE_EXPORT void pcache_raw_options_init_sized(pcache_raw_options* options, uint32_t size) {
  memset(static_cast<void*>(options), 0, size);
  if (size >= sizeof size) options->size = size;
}

PCACHE_EXPORT int pcache_raw_open(const pcache_raw_options* given, pcache_raw** out,
                                  pcache_error* err) {
  return guarded(err, [&]() -> int {
    *out = nullptr;
    if (!pcache::is_sized(given->size, kLeastRawBytes) || pcache::set_behind(*given))
      return fail(make_error(EINVAL,
                             "pcache_raw_options: of the size %u, %zu bytes are known here, and "
                             "%u needed: call pcache_raw_options_init() first",
                             given->size, sizeof *given, kLeastRawBytes),
                  err);
    pcache_raw_options all = {};
    memcpy(static_cast<void*>(&all), given, std::min<size_t>(given->size, sizeof all));
    const pcache_raw_options* const raw = &all;
    if (!raw->cache_path || !*raw->cache_path)
      return fail(
          make_error(EINVAL, "option cache_path: missing: the pmem device or file to store to"),
          err);
    pcache::PmemOptions options;
    options.path = raw->cache_path;
    options.emulate = raw->emulate_pmem;
    options.create_bytes = raw->cache_size;
    if (raw->persist && *raw->persist) options.persist = raw->persist;
    options.prefault = true;
    if (raw->huge_pages != PCACHE_HUGE_PAGES_AUTO && raw->huge_pages != PCACHE_HUGE_PAGES_NEVER)
      return fail(
          make_error(EINVAL, "option huge_pages: %d is not 0 (auto) or 1 (never)", raw->huge_pages),
          err);
    options.huge_pages = raw->huge_pages == PCACHE_HUGE_PAGES_AUTO;
    options.provisional = true;  // on an error the file is left as it was
    pcache::Log log;
    if (raw->log)
      log = pcache::Log(
          [fn = raw->log, ctx = raw->log_ctx](pcache::LogLevel level, const char* line) {
            fn(ctx, static_cast<pcache_log_level>(level), line);
          });
    auto pmem = pcache::Pmem::open(options, log);
    if (!pmem) return fail(pmem.error(), err);
    pcache::media::Superblock sb{};
    if (pmem.value()->size_bytes() >= pcache::media::kSegmentsOff &&
        (!pmem.value()->load(&sb, MediaOff{pcache::media::kSuperblockOff}, sizeof sb) ||
         sb.magic == pcache::media::kSuperblockMagic))
      return fail(make_error(EEXIST,
                             "%s: holds a cache; the bound overwrites whatever is there: give it a "
                             "device or file of its own",
                             raw->cache_path),
                  err);
    if (auto ready = pmem.value()->make_ready(true); !ready) return fail(ready.error(), err);
    pmem.value()->keep();
    // As a cache chooses, but a scratch device has no record of an earlier measurement.
    if (options.persist == pcache::kPersistAuto) {
      if (const auto measured = pmem.value()->calibrate(8))
        pmem.value()->use(measured.value().chosen());
      else
        log.print(pcache::LogLevel::kWarning, "persist=auto: not measured: %s",
                  measured.error().text.c_str());
    }
    *out = new pcache_raw{pmem.take()};
    return 0;
  });
}

PCACHE_EXPORT void pcache_raw_close(pcache_raw* raw) { delete raw; }

PCACHE_EXPORT uint64_t pcache_raw_bytes(const pcache_raw* raw) { return raw->pmem->size_bytes(); }

PCACHE_EXPORT int pcache_raw_store(pcache_raw* raw, uint64_t off, const void* buf, uint64_t len) {
  return raw->pmem->store(MediaOff{off}, buf, len) ? 0 : -EIO;
}

PCACHE_EXPORT void pcache_raw_fence(pcache_raw* raw) { raw->pmem->fence(); }

PCACHE_EXPORT int pcache_raw_load(pcache_raw* raw, uint64_t off, void* buf, uint64_t len) {
  return raw->pmem->load(buf, MediaOff{off}, len) ? 0 : -EIO;
}
