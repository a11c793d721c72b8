// SPDX-License-Identifier: GPL-2.0-or-later
// What of a cache's options changes while it is open.
#include <utility>

#include "cache/cache.h"
#include "cache/option_table.h"
#include "cache/status.h"

namespace pcache {

Status Cache::set_gc_percent(int64_t percent) {
  if (auto writable = refuse_if_readonly("gc_percent"); !writable) return writable;
  if (percent < 0 || percent > media::kGcPercentMax)
    return make_error(EINVAL, "gc_percent: %lld is not in 0..%u", static_cast<long long>(percent),
                      media::kGcPercentMax);
  {
    MutexLock lock(frame_mu_);
    const uint32_t before = std::exchange(frame_.info.gc_percent, static_cast<uint32_t>(percent));
    if (auto written = write_cache_info(*devices_.pmem, frame_); !written) {
      frame_.info.gc_percent = before;
      return written;
    }
  }
  worker_->set_gc_percent(static_cast<uint32_t>(percent));
  return {};
}

Status Cache::set(const char* name, const char* text) {
  if (auto writable = refuse_if_readonly(name); !writable) return writable;
  pcache_options options;
  init_options(&options, sizeof options);
  if (auto is_value = set_option(&options, name, text); !is_value) return is_value;
  const std::string_view option = name;
  if (option == "dirty_high_percent")
    return set_dirty_option(&DirtyOptions::high_percent, options.dirty_high_percent);
  if (option == "dirty_low_percent")
    return set_dirty_option(&DirtyOptions::low_percent, options.dirty_low_percent);
  if (option == "writeback_rate")
    return set_dirty_option(&DirtyOptions::writeback_rate, options.writeback_rate);
  if (option == "seq_cutoff") {
    requests_->set_seq_cutoff_bytes(static_cast<uint64_t>(options.seq_cutoff));
    return {};
  }
  if (option == "gc_percent") {
    if (options.gc_percent == PCACHE_FROM_MEDIA) return {};  // so it is
    return set_gc_percent(options.gc_percent);
  }
  return make_error(EINVAL,
                    "option %s: an open cache keeps it; gc_percent, dirty_high_percent, "
                    "dirty_low_percent, writeback_rate and seq_cutoff can be changed",
                    name);
}

Status Cache::set_dirty_option(int64_t DirtyOptions::*option, int64_t value) {
  MutexLock lock(dirty_mu_);
  DirtyOptions changed = dirty_options_;
  changed.*option = value;
  const auto limits = dirty_limits_of(changed);
  if (!limits) return limits.error();
  dirty_options_ = changed;
  worker_->set_dirty_limits(limits.value());
  return {};
}

void Cache::reset_counters() {
  std::shared_ptr<const CounterBase> now = count_now(*this);
  MutexLock lock(counter_mu_);
  counter_base_.swap(now);
}

}  // namespace pcache
