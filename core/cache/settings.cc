// SPDX-License-Identifier: GPL-2.0-or-later
// What of a cache's options changes while it is open.
#include <utility>

#include "cache/cache.h"
#include "cache/option_table.h"
#include "cache/status.h"

namespace pcache {

template <typename T>
Status Cache::change_info(T CacheInfoFields::*field, T value) {
  const T before = std::exchange(frame_.info.*field, value);
  auto written = write_cache_info(*devices_.pmem, frame_);
  if (!written) frame_.info.*field = before;
  return written;
}

Status Cache::set_gc_percent(int64_t percent) {
  if (auto writable = refuse_if_readonly("gc_percent"); !writable) return writable;
  if (auto alone = refuse_if_front("gc_percent"); !alone) return alone;
  if (percent < 0 || percent > media::kGcPercentMax)
    return make_error(EINVAL, "gc_percent: %lld is not in 0..%u", static_cast<long long>(percent),
                      media::kGcPercentMax);
  {
    MutexLock lock(frame_mu_);
    if (auto changed = change_info(&CacheInfoFields::gc_percent, static_cast<uint32_t>(percent));
        !changed)
      return changed;
    retention_->set_capacity(kept_bytes(frame_.info.n_segs, static_cast<uint32_t>(percent)));
  }
  worker_->set_gc_percent(static_cast<uint32_t>(percent));
  return {};
}

// With the lock until requests know it, so that what they do is what the media says.
Status Cache::set_mode(CacheMode mode) {
  if (auto alone = refuse_if_front("cache_mode"); !alone) return alone;
  {
    MutexLock lock(frame_mu_);
    if (auto changed = change_info(&CacheInfoFields::mode, mode); !changed) return changed;
    mode_.set(mode);
    requests_->deferred().set_to_device(answers_of(mode).acks_on_device);
  }
  worker_->mode_changed();
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
  if (option == "read_ahead") {
    requests_->set_read_ahead_bytes(static_cast<uint64_t>(options.read_ahead));
    return {};
  }
  if (option == "flush_delay_ms") {
    worker_->set_flush_delay(Worker::Milliseconds{options.flush_delay_ms});
    return {};
  }
  if (option == "writeback_interval_ms") {
    worker_->set_writeback_interval(Worker::Milliseconds{options.writeback_interval_ms});
    return {};
  }
  if (option == "backing_order") {
    writeback_->set_strict(options.backing_order == PCACHE_ORDER_STRICT);
    return {};
  }
  if (option == "gc_percent") {
    if (options.gc_percent == PCACHE_FROM_MEDIA) return {};  // so it is
    return set_gc_percent(options.gc_percent);
  }
  if (option == "cache_mode") {
    if (options.cache_mode == PCACHE_FROM_MEDIA) return {};  // likewise
    return set_mode(static_cast<CacheMode>(options.cache_mode));
  }
  if (option == "drain") {
    if (auto alone = refuse_if_front("drain"); !alone) return alone;
    drains_at_close_ = options.drain != 0;
    return {};
  }
  if (option == "policy")
    return retention_->set_kind(static_cast<policy::PolicyKind>(options.policy));
  return make_error(
      EINVAL,
      "option %s: an open cache keeps it; gc_percent, cache_mode, backing_order, policy, "
      "dirty_high_percent, dirty_low_percent, writeback_rate, seq_cutoff, read_ahead, "
      "flush_delay_ms, writeback_interval_ms and drain can be changed",
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
