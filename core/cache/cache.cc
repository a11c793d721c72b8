// SPDX-License-Identifier: GPL-2.0-or-later
#include "cache/cache.h"

#include <algorithm>
#include <utility>

#include "base/mutants.h"

namespace pcache {

namespace {

// Without this, opening the second would say that another program uses the device.
Status refuse_one_device(const Options& options) {
  if (!is_same_device(options.pmem.path, options.backing.path)) return {};
  return make_error(EINVAL, "cache device %s and backing device %s are one and the same; give two",
                    options.pmem.path.c_str(), options.backing.path.c_str());
}

}  // namespace

Result<std::unique_ptr<Cache>> Cache::open(const Options& options) {
  if (auto differ = refuse_one_device(options); !differ) return differ.error();
  auto backing = open_block_device(options.backing, options.log);
  if (!backing) return backing.error();
  auto main = ThreadExecutor::create();
  if (!main) return main.error();
  auto writing = ThreadExecutor::create();
  if (!writing) return writing.error();
  PmemOptions pmem_options = options.pmem;
  pmem_options.provisional = true;
  pmem_options.with_room = !options.front;
  PCACHE_CHECK(options.front == (pmem_options.side == PmemSide::kFront));
  auto pmem = Pmem::open(pmem_options, options.log);
  if (!pmem) return pmem.error();
  Devices devices{pmem.take(), backing.take(), main.take(), writing.take()};
  auto cache = attach(std::move(devices), options);
  if (!cache)
    return make_error(cache.error().code, "%s: %s", options.pmem.path.c_str(),
                      cache.error().text.c_str());
  return cache;
}

Result<std::unique_ptr<Cache>> Cache::attach(Devices devices, const Options& options) {
  PCACHE_CHECK(devices.pmem && devices.backing && devices.executor);
  std::unique_ptr<Cache> cache(new Cache(std::move(devices), options));
  constexpr Status (Cache::*kSteps[])() = {
      &Cache::probe,          &Cache::check_cache_size,
      &Cache::check_identity, &Cache::load_frame_and_options,
      &Cache::recover_log,    &Cache::wire,
      &Cache::make_ready,     &Cache::format_if_blank,
  };
  for (auto step : kSteps)
    if (auto done = (cache.get()->*step)(); !done) return done.error();
  if (options.readonly) return cache;
  if (auto written = cache->write_attached(); !written) return written.error();
  cache->choose_persist();
  cache->worker_->start();
  cache->attached_.store(true, std::memory_order_release);
  // Last: with few cores replay ends sooner without it, and replay needs few of the pages.
  if (options.prefault_beside) cache->devices_.pmem->prefault_beside();
  return cache;
}

Cache::Cache(Devices devices, const Options& options)
    : devices_(std::move(devices)),
      options_(options),
      messages_(options.log),
      drains_at_close_(options.drain),
      dirty_options_(options.dirty),
      media_errors_(*devices_.pmem, messages_),
      space_watch_(messages_, devices_.backing->identity().text) {}

Cache::~Cache() {
  const Status closed = close();
  if (!closed) messages_.print(LogLevel::kError, "close: %s", closed.error().text.c_str());
}

Result<std::unique_ptr<Queue>> Cache::create_queue(uint32_t depth) {
  if (depth == 0 || depth > 65536)
    return make_error(EINVAL, "queue depth: %u is not in 1..65536", depth);
  return Queue::create(*requests_, queues_, depth);
}

Status Cache::refuse_if_readonly(const char* what) const {
  if (!options_.readonly) return {};
  return make_error(EROFS, "%s: the cache was opened with readonly=1, nothing is written", what);
}

Status Cache::refuse_if_front(const char* what) const {
  if (!options_.front) return {};
  return make_error(EOPNOTSUPP, "%s: the cache was opened with role=front: ask its backend", what);
}

Status Cache::drain(const std::atomic<bool>* given_up) {
  if (auto alone = refuse_if_front("drain"); !alone) return alone;
  if (auto writable = refuse_if_readonly("drain"); !writable) return writable;
  return worker_->drain(given_up);
}

Status Cache::commit() {
  if (options_.readonly) return {};  // as a FLUSH
  return stripes_->close_all();
}

SpaceWatch::Sample Cache::sample_space(Worker::State state) const {
  const SegmentCounts segments = recovered_.segments->counts();
  return {.waits = requests_->counters().waits.load(),
          .waiting = requests_->deferred().count(),
          .awaited = requests_->acks().count(),
          .written_bytes = writeback_->counters().written_bytes.load() +
                           writeback_->counters().zeroed_bytes.load() +
                           writeback_->counters().hole_bytes.load(),
          .passed_bytes = writeback_->passed_dirty_bytes(),
          .dirty_bytes = dirty().live_bytes,
          .free_segments = segments.free,
          .segments = segments.total,
          .failing = state.failing,
          .error = std::move(state.last_error)};
}

void Cache::say_use() {
  using Hint = Doorbell::Hint;
  const SegmentCounts segments = recovered_.segments->counts();
  doorbell_->say(Hint::kSegments, segments.total);
  doorbell_->say(Hint::kUsedSegments, segments.total - segments.free);
  doorbell_->say(Hint::kDirtyBytes, dirty().live_bytes);
  doorbell_->say(Hint::kWaiting, requests_->deferred().count());
}

// Reads the tails behind the head: they only grow, and never pass it.
Cache::Dirty Cache::dirty() const {
  const LogMark head = log_->mark();
  return {recovered_.index->dirty_bytes(),
          head.ksets - std::min(writeback_->passed_ksets(), head.ksets),
          head.dirty_bytes - std::min(writeback_->passed_dirty_bytes(), head.dirty_bytes)};
}

// A full log can be committed to later: what is written back can be reclaimed.
Status Cache::close_ksets() {
  Status closed;
  const auto close_all = [&] {
    closed = stripes_->close_all();
    return closed.ok();
  };
  worker_->make_room(close_all);
  return closed;
}

Status Cache::close() {
  if (closed_ || !worker_) return {};
  PCACHE_CHECK(queues_.size() == 0);
  closed_ = true;
  // In any case: the data heads give their segments back when the worker is gone.
  struct NoEvents {
    SegmentTable& segments;
    ~NoEvents() { segments.set_events({}); }
  } const no_events{*recovered_.segments};
  give_up_device();  // what a lost server was to do is dirty, and stays so
  worker_->stop();
  PCACHE_CHECK(requests_->deferred().count() == 0 && requests_->acks().count() == 0);
  // If the attach failed or is readonly, nothing is written or drained.
  if (!attached_.load(std::memory_order_acquire)) return {};
  space_watch_.close(sample_space({}));  // without an error's text, which takes memory
  Status closed = close_ksets();
  PCACHE_CHECK(!closed || (stripes_->open_keys() == 0 && !log_->has_uncommitted()));
  if (closed && drains_at_close_) {
    Status drained = worker_->drain();
    if (!hazard(Hazard::kLastFlushIgnored)) closed = std::move(drained);
  }
  return closed;
}

}  // namespace pcache
