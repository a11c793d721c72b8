/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbdkit-pcache-plugin.so: a cached block device over NBD.
 *
 *     nbdkit pcache cache_dev=/dev/dax0.0 backing=/dev/sdb gc_percent=70
 *
 * The options are those of the library's table, by the names that they have in fio's engine, and
 * `backing`. One cache serves all connections, and is opened by the process that serves.
 */
#define NBDKIT_API_VERSION 2
#include <errno.h>
#include <nbdkit-plugin.h>
#include <pcache.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../keys.h"
#include "lanes.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static struct pcache_options options;
static pcache_cache* cache;
static struct pcache_info info;
static _Atomic uint64_t served_bytes; /* the most that a connection was told */
static pid_t owner;                   /* the process that has opened the cache */

/* ---- Options ---- */

/* What `nbdkit pcache --help` shows, made from the table. */
static char* make_help(void) {
  char* text = NULL;
  size_t size;
  FILE* out = open_memstream(&text, &size);

  if (!out) return NULL;
  keys_print_help(out);
  return fclose(out) ? NULL : text;
}

/* nbdkit has no word for a warning: its own log would call it an error. */
static void log_line(void* ctx, enum pcache_log_level level, const char* line) {
  (void)ctx;
  if (level == PCACHE_LOG_ERROR)
    nbdkit_error("%s", line);
  else if (level == PCACHE_LOG_WARNING)
    fprintf(stderr, "nbdkit: pcache: warning: %s\n", line);
  else
    nbdkit_debug("%s", line);
}

static struct nbdkit_plugin plugin; /* below */

/* nbdkit takes a copy of `plugin` before it calls its load(). */
__attribute__((constructor)) static void prepare(void) {
  pcache_options_init(&options);
  options.log = log_line;
  plugin.config_help = make_help();
}

static int pcache_config(const char* key, const char* value) {
  struct pcache_option_info option;
  struct pcache_error error = {0};

  if (!key_find(key, &option)) {
    nbdkit_error("%s=%s: there is no such option; nbdkit pcache --help names them", key, value);
    return -1;
  }
  if (key_takes_path(&option, value)) {
    value = nbdkit_absolute_path(value); /* nbdkit goes to / ; never freed */
    if (!value) return -1;
  }
  if (!pcache_options_set(&options, option.name, value, &error)) return 0;
  nbdkit_error("%s", error.text);
  return -1;
}

static int pcache_config_complete(void) {
  if (options.cache_path && options.backing_path) return 0;
  nbdkit_error("%s is missing: nbdkit pcache cache_dev=PMEM backing=DISK",
               options.cache_path ? "backing=" : "cache_dev=");
  return -1;
}

static void pcache_dump_plugin(void) { printf("libpcache_version=%s\n", pcache_version()); }

/* ---- The cache ---- */

/* In the process that serves: a cache does not outlive a fork. */
static int pcache_after_fork(void) {
  struct pcache_error error = {0};

  if (pcache_open(&options, &cache, &error)) {
    nbdkit_error("%s", error.text);
    return -1;
  }
  info.size = sizeof(info);
  pcache_get_info(cache, &info);
  served_bytes = info.logical_bytes;
  owner = getpid();
  lanes_begin(cache, info.block_size);
  return 0;
}

static void pcache_unload(void) {
  struct pcache_error error = {0};

  if (!cache || owner != getpid()) return;
  lanes_end();
  if (pcache_close(cache, &error)) nbdkit_error("%s", error.text);
}

/* ---- Connections ---- */

static void* pcache_connect(int readonly) {
  (void)readonly; /* nbdkit -r: it asks for no write then */
  return NBDKIT_HANDLE_NOT_NEEDED;
}

/* Each connection is told once: of a device that has grown meanwhile the next one learns. */
static int64_t pcache_get_size(void* handle) {
  struct pcache_info now = {.size = sizeof(now)};
  uint64_t served = served_bytes;

  (void)handle;
  pcache_get_info(cache, &now);
  /* Another connection may have been told more meanwhile. */
  while (served < now.logical_bytes &&
         !atomic_compare_exchange_weak(&served_bytes, &served, now.logical_bytes)) {
  }
  return (int64_t)now.logical_bytes;
}

/*
 * Any request is served, so no client has to keep to the cache's blocks: some look at nothing, and
 * some refuse a minimum above 512.
 */
static int pcache_block_size(void* handle, uint32_t* minimum, uint32_t* preferred,
                             uint32_t* maximum) {
  (void)handle;
  *minimum = 1;
  *preferred = 4096;
  *maximum = UINT32_MAX;
  return 0;
}

static int pcache_can_write(void* handle) {
  (void)handle;
  return !options.readonly;
}

static int yes(void* handle) {
  (void)handle;
  return 1;
}

/* A trim has to make zeros: where the device has to write each, mkfs of it all would take hours. */
static int pcache_can_trim(void* handle) {
  (void)handle;
  return info.makes_holes;
}

static int native_fua(void* handle) {
  (void)handle;
  return NBDKIT_FUA_NATIVE;
}

/* nbdkit's status of a request; a client gets the errno, the log the line. */
static int told(int status, const char* what, uint32_t count, uint64_t offset) {
  if (!status) return 0;
  nbdkit_error("%s of %u bytes at %llu: %s", what, count, (unsigned long long)offset,
               strerror(-status));
  nbdkit_set_error(-status);
  return -1;
}

/* nbdkit has looked at a client's ranges; this one is checked all the same before it is shared. */
static bool inside(uint32_t count, uint64_t offset) {
  uint64_t end = served_bytes;

  return count > 0 && offset <= end && count <= end - offset;
}

static int pcache_pread(void* handle, void* buf, uint32_t count, uint64_t offset, uint32_t flags) {
  (void)handle;
  (void)flags;
  return told(inside(count, offset) ? lanes_read(buf, count, offset) : -EINVAL, "read", count,
              offset);
}

static int pcache_pwrite(void* handle, const void* buf, uint32_t count, uint64_t offset,
                         uint32_t flags) {
  bool fua = flags & NBDKIT_FLAG_FUA;

  (void)handle;
  return told(inside(count, offset) ? lanes_write(buf, count, offset, fua) : -EINVAL, "write",
              count, offset);
}

/* A hole that a client punches is a trim, and it relies on zeros: all of the range becomes zeros.
 */
static int pcache_trim(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
  bool fua = flags & NBDKIT_FLAG_FUA;

  (void)handle;
  return told(inside(count, offset) ? lanes_zero(count, offset, true, fua) : -EINVAL, "trim", count,
              offset);
}

static int pcache_zero(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
  bool fua = flags & NBDKIT_FLAG_FUA, hole = flags & NBDKIT_FLAG_MAY_TRIM;

  (void)handle;
  return told(inside(count, offset) ? lanes_zero(count, offset, hole, fua) : -EINVAL,
              "writing zeros", count, offset);
}

/* What is cached is data, but for zeros; of the rest the backing device knows its holes. */
static int pcache_extents(void* handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents* extents) {
  uint64_t end = offset + count;

  (void)handle;
  while (offset < end) {
    struct pcache_extent found[64];
    bool one = flags & NBDKIT_FLAG_REQ_ONE;
    int n = pcache_map(cache, offset, end - offset, found, one ? 1 : 64);

    if (n < 0) return told(n, "mapping", count, offset);
    for (int i = 0; i < n; i++) {
      uint32_t type = (found[i].flags & PCACHE_EXTENT_ZEROS ? NBDKIT_EXTENT_ZERO : 0) |
                      (found[i].flags & PCACHE_EXTENT_HOLE ? NBDKIT_EXTENT_HOLE : 0);

      if (nbdkit_add_extent(extents, found[i].off, found[i].len, type) == -1) return -1;
    }
    offset = found[n - 1].off + found[n - 1].len;
    if (one) break;
  }
  return 0;
}

/* Of all that has completed, on whichever connection: by that multi-conn holds. */
static int pcache_flush(void* handle, uint32_t flags) {
  (void)handle;
  (void)flags;
  return told(lanes_flush(), "flush", 0, 0);
}

static struct nbdkit_plugin plugin = {
    .name = "pcache",
    .longname = "pcache: a cache in persistent memory before a block device",
    .version = PCACHE_VERSION,
    .unload = pcache_unload,
    .config = pcache_config,
    .config_complete = pcache_config_complete,
    .dump_plugin = pcache_dump_plugin,
    .after_fork = pcache_after_fork,
    .open = pcache_connect,
    .get_size = pcache_get_size,
    .block_size = pcache_block_size,
    .can_write = pcache_can_write,
    .can_flush = yes,
    .can_trim = pcache_can_trim,
    .can_zero = yes,
    .can_fast_zero = yes,
    .can_extents = yes,
    .can_multi_conn = yes,
    .can_fua = native_fua,
    .pread = pcache_pread,
    .pwrite = pcache_pwrite,
    .flush = pcache_flush,
    .trim = pcache_trim,
    .zero = pcache_zero,
    .extents = pcache_extents,
    .errno_is_preserved = 0,
};

NBDKIT_REGISTER_PLUGIN(plugin)
