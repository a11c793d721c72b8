// SPDX-License-Identifier: GPL-2.0-or-later
// The options of a cache, checked: pcache_options in the library's own types.
#pragma once

#include <optional>
#include <string>

#include "base/log.h"
#include "base/result.h"
#include "blockdev/block_device.h"
#include "format/cache_mode.h"
#include "pcache.h"
#include "pmem/pmem.h"
#include "policy/eviction_policy.h"
#include "segment/space_policy.h"

namespace pcache {

inline constexpr const char* kNoControl = "off";

// As given.
struct DirtyOptions {
  int64_t high_percent = 100, low_percent = PCACHE_TEN_BELOW;
  int64_t writeback_rate = 0;
};

struct Options {
  PmemOptions pmem;
  BlockDeviceOptions backing;
  std::optional<bool> data_crc;        // nothing: what the media says
  std::optional<uint32_t> gc_percent;  // nothing: what the media says
  std::optional<CacheMode> mode;       // likewise
  bool force = false;
  uint32_t flush_delay_ms = 1000;
  uint32_t writeback_interval_ms = 5000;
  bool drain = false;  // at close
  bool prefault_beside = false;
  bool readonly = false;  // as in pmem and backing
  bool front = false;     // a backend writes back; as in pmem and backing
  bool strict_order = true;
  bool check_at_attach = true;  // of cached data, with data_crc
  DirtyOptions dirty;
  policy::PolicyKind policy = policy::PolicyKind::kFifo;
  uint64_t seq_cutoff_bytes = 0;  // 0: none
  uint64_t read_ahead_bytes = 0;  // 0: none
  std::string backend;            // a path, or BackendProcess::kFindBackend; empty: none is started
  std::string control;            // a path, or kNoControl; empty: the default one
  Log log;
};

// Of values that the table of options allows. EINVAL: they contradict each other.
Result<DirtyLimits> dirty_limits_of(const DirtyOptions& options);

// EINVAL, naming the option, the value and what is allowed. `given` may be smaller or larger than
// this library's struct: its `size` says so.
Result<Options> check_options(const pcache_options& given);

}  // namespace pcache
