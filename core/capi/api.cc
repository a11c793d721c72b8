// SPDX-License-Identifier: GPL-2.0-or-later
// The C ABI over Cache and Queue. No exception passes it.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/sized.h"
#include "cache/cache.h"
#include "cache/map.h"
#include "cache/status.h"
#include "capi/error.h"
#include "capi/fork_guard.h"
#include "control/backend_process.h"
#include "control/bell_listener.h"
#include "control/commands.h"
#include "pcache.h"

struct pcache_cache final : pcache::Guarded {
  explicit pcache_cache(std::unique_ptr<pcache::Cache> opened) : cache(std::move(opened)) {
    enlist();
  }
  ~pcache_cache() { delist(); }
  std::unique_ptr<pcache::BackendProcess> backend;  // of a front; ends behind it
  std::unique_ptr<pcache::Cache> cache;
  std::unique_ptr<pcache::BellListener> bell;  // of a front
  std::unique_ptr<pcache::CacheCommands> commands;
  std::unique_ptr<pcache::ControlServer> control;  // last: it uses the others
};
struct pcache_queue final : pcache::Guarded {
  explicit pcache_queue(std::unique_ptr<pcache::Queue> created) : queue(std::move(created)) {
    enlist();
  }
  ~pcache_queue() { delist(); }
  void disown() override { queue->disown(); }
  std::unique_ptr<pcache::Queue> queue;
};

using pcache::fail;
using pcache::guarded;

namespace {

int forked(pcache_error* err) {
  return fail(pcache::make_error(EPERM,
                                 "the cache was opened by the process that this one was forked "
                                 "from: use it there, or open it here once it is closed there"),
              err);
}

// Where one is asked for: before anything is changed, since it may not be had.
pcache::Status listen_where_asked(const pcache::Options& options,
                                  std::optional<pcache::ControlSocket>* socket) {
  if (options.control.empty() || options.control == pcache::kNoControl) return {};
  auto made = pcache::ControlSocket::listen(options.control, false);
  if (!made)
    return pcache::make_error(made.error().code, "option control: %s", made.error().text.c_str());
  socket->emplace(made.take());
  return {};
}

// The front reads what misses from that.
pcache::Status have_backend(pcache::Options* options, pcache_cache* handle) {
  if (options->backend.empty()) return {};
  auto backend = pcache::BackendProcess::have({.program = options->backend,
                                               .cache_path = options->pmem.path,
                                               .disk_path = options->backing.path,
                                               .emulate_pmem = options->pmem.emulate,
                                               .strict = options->strict_order,
                                               .log = options->log});
  if (!backend)
    return pcache::make_error(backend.error().code, "option backend: %s",
                              backend.error().text.c_str());
  handle->backend = backend.take();
  options->backing.path = handle->backend->uri();
  return {};
}

// The cache is of use without.
pcache::Status begin_control(const pcache::Options& options,
                             std::optional<pcache::ControlSocket> socket,
                             pcache_cache* handle) try {
  if (options.control == pcache::kNoControl) return {};
  if (!socket) {
    const auto path = pcache::default_socket(options.pmem.path, options.readonly);
    if (!path) return path.error();
    auto made = pcache::ControlSocket::listen(path.value(), true);
    if (!made) return made.error();
    socket.emplace(made.take());
  }
  handle->commands = std::make_unique<pcache::CacheCommands>(*handle->cache, options.pmem.path,
                                                             options.backing.path);
  auto server = pcache::ControlServer::start(std::move(*socket), *handle->commands);
  if (!server) return server.error();
  handle->control = server.take();
  return {};
} catch (const std::bad_alloc&) {
  return pcache::out_of_memory();
}

// The cache is of use without.
pcache::Status listen_to_bell(const pcache::Options& options, pcache_cache* handle) try {
  pcache::Cache& cache = *handle->cache;
  if (options.control == pcache::kNoControl || !cache.doorbell()) return {};
  auto bell = pcache::BellListener::start(
      options.pmem.path, *cache.doorbell(),
      {.rung = [&cache] { cache.rung(); }, .beats = [&cache] { cache.say_use(); }});
  if (!bell) return bell.error();
  handle->bell = bell.take();
  return {};
} catch (const std::bad_alloc&) {
  return pcache::out_of_memory();
}

}  // namespace

PCACHE_EXPORT int pcache_open(const pcache_options* options, pcache_cache** out,
                              pcache_error* err) {
  return guarded(err, [&]() -> int {
    *out = nullptr;
    auto checked = pcache::check_options(*options);
    if (!checked) return fail(checked.error(), err);
    auto handle = std::make_unique<pcache_cache>(nullptr);  // before what cannot be undone
    std::optional<pcache::ControlSocket> socket;
    if (auto made = listen_where_asked(checked.value(), &socket); !made)
      return fail(made.error(), err);
    if (auto had = have_backend(&checked.value(), handle.get()); !had)
      return fail(had.error(), err);
    auto cache = pcache::Cache::open(checked.value());
    if (!cache) return fail(cache.error(), err);
    handle->cache = cache.take();
    if (auto begun = begin_control(checked.value(), std::move(socket), handle.get()); !begun)
      checked.value().log.print(
          pcache::LogLevel::kNotice,
          "control socket: %s: no pcachectl finds this cache while it is attached; control=PATH "
          "names another place, control=off has none",
          begun.error().text.c_str());
    if (auto heard = listen_to_bell(checked.value(), handle.get()); !heard)
      checked.value().log.print(
          pcache::LogLevel::kNotice,
          "%s: pcached and this front find what the other has done when they look for it",
          heard.error().text.c_str());
    *out = handle.release();
    return 0;
  });
}

PCACHE_EXPORT int pcache_close(pcache_cache* cache, pcache_error* err) {
  if (!cache) return 0;
  // A handle of the parent process is never destroyed.
  if (cache->foreign()) return guarded(err, [&] { return forked(err); });
  cache->cache->give_up_device();  // a drain that the control socket has begun may wait for it
  cache->control.reset();
  const int rc = guarded(err, [&]() -> int {
    const auto closed = cache->cache->close();
    return closed ? 0 : fail(closed.error(), err);
  });
  delete cache;  // in any case
  return rc;
}

PCACHE_EXPORT int pcache_drain(pcache_cache* cache, pcache_error* err) {
  return guarded(err, [&]() -> int {
    if (cache->foreign()) return forked(err);
    const auto drained = cache->cache->drain();
    return drained ? 0 : fail(drained.error(), err);
  });
}

PCACHE_EXPORT int pcache_set_gc_percent(pcache_cache* cache, int32_t percent, pcache_error* err) {
  return guarded(err, [&]() -> int {
    if (cache->foreign()) return forked(err);
    const auto set = cache->cache->set_gc_percent(percent);
    return set ? 0 : fail(set.error(), err);
  });
}

PCACHE_EXPORT int pcache_set(pcache_cache* cache, const char* name, const char* text,
                             pcache_error* err) {
  return guarded(err, [&]() -> int {
    if (cache->foreign()) return forked(err);
    const auto set = cache->cache->set(name, text);
    return set ? 0 : fail(set.error(), err);
  });
}

PCACHE_EXPORT int pcache_get_info(const pcache_cache* cache, pcache_info* info) {
  if (!pcache::is_sized(info->size, offsetof(pcache_info, logical_bytes))) return -EINVAL;
  if (cache->foreign()) return -EPERM;
  const pcache::Cache& c = *cache->cache;
  pcache_info all = {};
  all.block_size = c.backing().logical_block_bytes();
  all.logical_bytes = c.logical_bytes();
  all.cache_bytes = c.pmem().size_bytes();
  all.segments = c.segments().size();
  all.data_crc = c.data_crc();
  all.gc_percent = static_cast<int32_t>(c.gc_percent());
  all.cache_mode = static_cast<int32_t>(c.mode());
  all.makes_holes = c.backing().makes_holes();
  all.emulated = c.pmem().kind() == pcache::PmemKind::kEmulated;
  PCACHE_DCHECK(strlen(c.pmem().persist_name()) < sizeof all.persist);
  PCACHE_DCHECK(strlen(pcache::pmem_kind_name(c.pmem().kind())) < sizeof all.pmem_kind);
  PCACHE_DCHECK(strlen(c.backing().io_mode_name()) < sizeof all.io_mode);
  snprintf(all.persist, sizeof all.persist, "%s", c.pmem().persist_name());
  snprintf(all.pmem_kind, sizeof all.pmem_kind, "%s", pcache::pmem_kind_name(c.pmem().kind()));
  snprintf(all.io_mode, sizeof all.io_mode, "%s", c.backing().io_mode_name());
  pcache::give_sized(all, info);
  return 0;
}

PCACHE_EXPORT int pcache_map(const pcache_cache* cache, uint64_t off, uint64_t len,
                             pcache_extent* extents, uint32_t count) {
  if (cache->foreign()) return -EPERM;
  const pcache::Cache& c = *cache->cache;
  const uint64_t size = c.logical_bytes();
  if (len == 0 || count == 0) return -EINVAL;
  if (off > size || len > size - off) return -ENXIO;
  int n = 0;
  for (pcache::Extent left{off, len}; left.len > 0 && static_cast<uint32_t>(n) < count;) {
    std::array<pcache::MappedExtent, 16> found;
    const size_t most = std::min<size_t>(found.size(), count - static_cast<uint32_t>(n));
    const size_t got = pcache::map_range(c.index(), c.backing(), left, {found.data(), most});
    for (size_t i = 0; i < got; i++) {
      const pcache::MappedExtent& one = found[i];
      const uint32_t flags =
          (one.cached ? PCACHE_EXTENT_CACHED : 0) | (one.dirty ? PCACHE_EXTENT_DIRTY : 0) |
          (one.zeros ? PCACHE_EXTENT_ZEROS : 0) | (one.hole ? PCACHE_EXTENT_HOLE : 0);
      extents[n++] = {one.extent.off, one.extent.len, flags, 0};
    }
    const uint64_t end = found[got - 1].extent.end();
    left = {end, left.end() - end};
  }
  return n;
}

PCACHE_EXPORT char* pcache_get_status(pcache_cache* cache, pcache_status_format format) {
  if (cache->foreign()) return nullptr;
  try {
    const std::string text = format == PCACHE_STATUS_LINE ? pcache::status_line(*cache->cache)
                                                          : pcache::status_json(*cache->cache);
    return strdup(text.c_str());
  } catch (const std::exception&) {
    return nullptr;
  }
}

PCACHE_EXPORT int pcache_queue_create(pcache_cache* cache, uint32_t depth, pcache_queue** out,
                                      pcache_error* err) {
  return guarded(err, [&]() -> int {
    *out = nullptr;
    if (cache->foreign()) return forked(err);
    auto queue = cache->cache->create_queue(depth);
    if (!queue) return fail(queue.error(), err);
    *out = new pcache_queue(queue.take());
    return 0;
  });
}

PCACHE_EXPORT void pcache_queue_destroy(pcache_queue* queue) {
  if (queue && !queue->foreign()) delete queue;
}

PCACHE_EXPORT int pcache_submit(pcache_queue* queue, pcache_request* request) {
  try {
    const int taken = queue->queue->submit(request);
    PCACHE_DCHECK(taken == 0 || taken == -EAGAIN || (taken == 1 && request->result <= 0));
    return taken;
  } catch (const std::bad_alloc&) {
    request->result = -ENOMEM;
    return 1;
  }
}

PCACHE_EXPORT int pcache_submit_batch(pcache_queue* queue, pcache_request* const* requests,
                                      uint32_t count, pcache_request** done, uint32_t* done_count) {
  const int taken = queue->queue->submit_batch({requests, count}, done, done_count);
  PCACHE_DCHECK(taken < 0 ? *done_count == 0 : *done_count <= static_cast<uint32_t>(taken));
  return taken;
}

PCACHE_EXPORT int pcache_reap(pcache_queue* queue, pcache_request** done, uint32_t min,
                              uint32_t max, int64_t timeout_ns) {
  if (queue->foreign()) return -EPERM;
  try {
    const int n = queue->queue->reap(done, min, max, timeout_ns);
    PCACHE_DCHECK(n >= 0 && static_cast<uint32_t>(n) <= max);
    return n;
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  }
}

PCACHE_EXPORT int pcache_queue_cancel(pcache_queue* queue) {
  return queue->foreign() ? -EPERM : static_cast<int>(queue->queue->cancel());
}

PCACHE_EXPORT int pcache_queue_fd(pcache_queue* queue) {
  return guarded(nullptr, [&]() -> int {
    if (queue->foreign()) return -EPERM;
    const auto fd = queue->queue->ready_fd();
    return fd ? fd.value() : -fd.error().code;
  });
}

PCACHE_EXPORT uint32_t pcache_queue_in_flight(const pcache_queue* queue) {
  return queue->foreign() ? 0 : queue->queue->in_flight();
}

PCACHE_EXPORT const char* pcache_version(void) { return PCACHE_VERSION; }
